"""How each command's result looks in the terminal."""
