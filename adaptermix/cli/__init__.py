"""The command line; only this package writes to the terminal."""
