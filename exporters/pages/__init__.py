"""Pages for people: the live page and the page of a proof."""
