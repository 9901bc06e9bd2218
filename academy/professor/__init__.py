"""Decides whether to train and chooses the recipe. Pure functions."""
