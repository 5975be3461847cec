"""Metrics for Prometheus, read from the maps at each scrape."""
