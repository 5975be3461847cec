"""exporters/prometheus."""
