"""Targets: what a selector means, what belongs to it now, what it is doing."""
