"""tracer/bpf/loader."""
