"""tracer/model."""
