"""The kernel half, loaded: programs, hooks, maps and rings."""
