"""Attacks on a home, each with a harmless marker. `make campaign` runs all of them, `make test` those that are short.

docs/security.md has a line for each defence, with the name of its test here.
"""
