"""The application layer: one verb a file, shared by commands, tasks and Python."""
