"""Search merging weights on development data."""
