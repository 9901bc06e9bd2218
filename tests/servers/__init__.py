"""Servers that speak the protocols of engines that cannot be installed everywhere, with the small model behind."""
