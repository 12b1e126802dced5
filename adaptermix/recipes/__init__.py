"""Recipes: several commands in one file, planned, run and resumed."""
