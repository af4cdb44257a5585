"""Recipes: one a model, with its evaluation."""
