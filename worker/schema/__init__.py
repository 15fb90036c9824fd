"""What the tables of both databases have to be, and the statement that mends what they are not."""
