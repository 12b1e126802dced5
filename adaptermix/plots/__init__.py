"""Plots as SVG: scales, axes, marks, and charts built from them."""
