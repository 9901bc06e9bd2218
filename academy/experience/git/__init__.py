"""Reads git repositories as input that may be hostile: nothing of a repository runs, and nothing is fetched.

`process.py` runs git, `repository.py` finds a repository and lets git check its owner, `objects.py` reads objects by
their ids, `commit.py` parses a commit, and `history.py` walks the commits and compares them.
"""
