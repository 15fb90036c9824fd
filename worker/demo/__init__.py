"""The demo on embedded servers."""
