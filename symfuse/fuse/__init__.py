"""Two ways to the kernel, over one view: the kernel protocol itself, and fusepy."""
