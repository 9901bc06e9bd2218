"""The HTTP gateway between users and a runtime."""
