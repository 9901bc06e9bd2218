"""Inputs as other people have them, and what is right for each: a folder for each kind, a TOML file for each case."""
