"""Parallel sentences, conversations and language names, as training and analysis read them."""
