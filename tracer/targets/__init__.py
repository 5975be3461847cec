"""tracer/targets."""
