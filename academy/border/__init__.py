"""What leaves a process of ours: the environment of its children, and the texts that it writes."""
