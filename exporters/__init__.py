"""What shows the facts: Prometheus, the event log, the terminal."""
