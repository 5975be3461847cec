"""The addresses of this host and its sockets, by network namespace, asked of the kernel."""
