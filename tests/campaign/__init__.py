"""Long proofs, run by `make campaign` within a budget of seconds."""
