"""Metrics from statistics of single examples, so that any of them can be bootstrapped."""
