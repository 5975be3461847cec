"""HTTP: the port, who may ask, and the server."""
