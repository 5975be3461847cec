"""Model runtimes: their profiles, how one is recognized, what it is set to."""
