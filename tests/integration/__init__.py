"""The loop end to end, with real parts."""
