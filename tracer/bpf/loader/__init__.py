"""Ways to make programs: libbpf from the object, bcc from the sources."""
