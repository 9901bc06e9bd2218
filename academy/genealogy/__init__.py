"""MLflow: runs and their curves, versions and their parents. MLflow shows; the ledger decides."""
