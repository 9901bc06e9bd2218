"""What may be served, who is champion, what is kept and what is erased."""
