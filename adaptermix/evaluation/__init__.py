"""Evaluate systems on a task: decode, score, and compare with confidence intervals."""
