"""The commands, one file for those that belong together. Each imports what it needs when it runs."""
