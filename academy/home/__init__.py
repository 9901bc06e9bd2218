"""Which folders are homes of this account, and who can reach what is in them."""
