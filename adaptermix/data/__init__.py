"""Readers of parallel sentences and conversations, and language names."""
