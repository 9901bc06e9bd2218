"""Storage: files, locks, the SQL database, the ledger and signing keys."""
