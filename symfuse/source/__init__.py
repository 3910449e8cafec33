"""What lies behind an entry: whether it is still what was frozen, and how it is read."""
