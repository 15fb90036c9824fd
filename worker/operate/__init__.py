"""The operator's work: setup, doctor, history, status."""
