"""What a record is, and what becomes of it: pure, without a database."""
