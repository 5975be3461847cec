"""Names of destinations: DNS, TLS, QUIC and hosts file."""
