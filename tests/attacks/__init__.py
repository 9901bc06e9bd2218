"""Attacks that must not succeed: each is a test, with harmless markers."""
