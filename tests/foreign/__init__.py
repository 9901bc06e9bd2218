"""Inputs as other people have them, and what is right for each: a folder for each kind, a TOML file for each case.

`test_KIND.py` runs the cases of a kind in `make test`; `test_KIND_fuzz.py` mutates them in `make campaign`. Each fuzzer
runs for ACADEMY_TEST_FUZZ_SECONDS (default: 20) and prints its counts, which the campaign shows.
"""
