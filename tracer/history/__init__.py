"""tracer/history."""
