"""Prefect tasks: each is a decorator and a call into `academy/`."""
