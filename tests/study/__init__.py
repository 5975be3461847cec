"""What real runtimes contact, and when: `make study`."""
