"""exporters/pages."""
