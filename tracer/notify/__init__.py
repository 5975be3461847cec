"""Notices on a desktop: what is worth one, where it comes from, how it is shown."""
