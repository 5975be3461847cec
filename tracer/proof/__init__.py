"""tattle prove and verify: a window of time, its evidence and its verdict."""
