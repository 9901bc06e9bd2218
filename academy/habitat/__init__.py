"""4. Where training happens."""
