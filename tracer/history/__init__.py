"""What the daemon keeps on disk, and what report and suggest make of it."""
