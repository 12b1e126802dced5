"""Merge adapters from files into a file, or into a base model, without loading a model."""
