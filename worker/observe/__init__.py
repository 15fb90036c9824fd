"""What the worker shows of itself: health, metrics, the page, the log."""
