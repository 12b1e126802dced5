"""Merge adapter files into one adapter, or into a base model, without loading a model."""
