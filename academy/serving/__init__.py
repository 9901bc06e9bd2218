"""7. Running models that answer."""
