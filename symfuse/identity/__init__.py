"""What makes two files the same image: equal bytes, equal pixels; and the cache of what was found out."""
