"""What an operator asks and does: setup, doctor, history, status."""
