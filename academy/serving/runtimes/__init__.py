"""The engines that answer, one file each."""
