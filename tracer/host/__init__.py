"""tracer/host."""
