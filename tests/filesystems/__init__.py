"""Symfuse on other file systems than the one under /tmp: what each does to a view, and what is told of it."""
