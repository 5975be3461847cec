"""An attached tracer with all that reads it, shared by the daemon, watch and prove."""
