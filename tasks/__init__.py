"""Prefect tasks: each a decorator and little more than a call into `academy/`; dispatch.py sends trainings to pools."""
