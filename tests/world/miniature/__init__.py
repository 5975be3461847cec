"""A miniature internet in two network namespaces, with real local-LLM programs in it."""
