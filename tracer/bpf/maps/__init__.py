"""tracer/bpf/maps."""
