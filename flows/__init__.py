"""Prefect flows: each reads like the sentence it implements."""
