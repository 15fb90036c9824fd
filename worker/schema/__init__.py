"""What the tables of both databases have to be, and the statement that fixes what they are not."""
