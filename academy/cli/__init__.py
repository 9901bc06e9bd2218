"""The `academy` command: one file a noun, which parses options, calls the application layer, and prints."""
