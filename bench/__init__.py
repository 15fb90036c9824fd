"""What the figures of the worker are measured with, side by side with others at the same job."""
