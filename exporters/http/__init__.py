"""exporters/http."""
