"""Metrics computed from per-example statistics, so that each of them can be bootstrapped."""
