"""The settings of every command: fields with defaults, limits and help texts."""
