"""Which adapters may be served, which version is champion, what is archived and what is erased."""
