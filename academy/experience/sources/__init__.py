"""Sources of experience: the protocol, one file an implementation, and the table that finds them by name."""
