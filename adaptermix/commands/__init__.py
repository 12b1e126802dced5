"""The commands: one value each, from which the command line, recipes and the reference derive."""
