"""tracer/names."""
