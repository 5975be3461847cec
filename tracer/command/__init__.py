"""One command that we run for our caller: its rights, its cgroup, its signals and its exit code."""
