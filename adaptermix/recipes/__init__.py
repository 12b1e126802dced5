"""Recipes: plan, run and resume several commands from one file."""
