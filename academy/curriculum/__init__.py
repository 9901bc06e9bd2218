"""2. From experience to datasets that can be trusted."""
