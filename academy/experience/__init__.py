"""1. What the assistant lived through: lessons, tasks, commits."""
