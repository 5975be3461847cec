"""tracer/session."""
