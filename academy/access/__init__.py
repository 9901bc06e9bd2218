"""Who may connect to a server of this home: one layer in front of Prefect, MLflow and the gateway."""
