"""tracer/proof."""
