"""exporters/logs."""
