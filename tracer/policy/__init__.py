"""tracer/policy."""
