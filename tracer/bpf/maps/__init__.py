"""The kernel's tables, read in batches."""
