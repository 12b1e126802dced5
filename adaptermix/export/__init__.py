"""Adapters in the formats of other programs."""
