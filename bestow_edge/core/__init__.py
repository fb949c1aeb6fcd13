"""Formats, policies and contracts that both ends of a bundle agree on. Needs numpy alone."""
