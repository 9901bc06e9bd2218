"""Exports versions for other tools."""
