"""The event log: JSON lines and systemd's journal."""
