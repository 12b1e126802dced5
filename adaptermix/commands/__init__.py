"""The commands: one object each, from which command line, recipes and reference are generated."""
