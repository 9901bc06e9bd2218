"""Prefect tasks: each a decorator and one call into `academy/`."""
