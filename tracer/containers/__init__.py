"""Container engines of the host: who their containers are, followed as they come and go."""
