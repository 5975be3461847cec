"""tracer/runtimes."""
