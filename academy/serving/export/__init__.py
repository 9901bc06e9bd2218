"""Versions as other tools load them."""
