"""exporters/terminal."""
