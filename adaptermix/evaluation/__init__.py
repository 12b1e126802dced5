"""Evaluate systems on a task: decode, score, and compare them with confidence intervals."""
