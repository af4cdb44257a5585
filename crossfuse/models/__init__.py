"""One paper a file: each model reads from top to bottom."""
