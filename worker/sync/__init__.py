"""The steps between the two databases, and their order."""
