"""Prefect: its server, its runs, its pages."""
