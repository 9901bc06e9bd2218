"""The `academy` command: one file a noun, which parses options, calls the application layer, and prints."""

from academy.border.current_folder import close_module_path

close_module_path()  # before the commands import libraries
