"""Records and their outcomes. Pure: no database."""
