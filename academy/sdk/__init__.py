"""The seed documents' Python classes."""
