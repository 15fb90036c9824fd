"""What goes between the two databases, in which order."""
