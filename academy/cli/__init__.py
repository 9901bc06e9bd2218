"""What the commands do, behind the command line's options."""
