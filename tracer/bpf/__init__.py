"""tracer/bpf."""
