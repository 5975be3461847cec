"""The host: cgroups, containers, capabilities, files, clocks and system calls."""
