"""Readers of what people upload, and data sets for training."""
