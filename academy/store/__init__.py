"""What is kept: files, locks, the SQL database, the ledger, signing keys."""
