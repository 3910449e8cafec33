"""Who may read: what a source grants, what stands on the way to it, and how a view says so."""
