"""The machine: processes, Docker, GPUs and their locks."""
