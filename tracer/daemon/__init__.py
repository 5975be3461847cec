"""tracer/daemon."""
