"""A mount's life: what must hold before it, the process that serves it, the table of live mounts, its end."""
