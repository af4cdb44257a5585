"""Frozen, pretrained feature extractors."""
