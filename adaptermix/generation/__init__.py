"""Decode prompts with vLLM or transformers, and cache the answers."""
