"""Runtimes, one file each: the engines that generate answers."""
