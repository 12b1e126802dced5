"""Plots as SVG: scales, axes, marks, and the few kinds of charts that are made of them."""
