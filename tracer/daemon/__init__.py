"""tattle run: the daemon, its control socket and its word to systemd."""
