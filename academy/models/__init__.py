"""Base models, chat templates and formats of conversations."""
