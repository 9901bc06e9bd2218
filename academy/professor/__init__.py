"""Whether training pays, and how to train: pure."""
