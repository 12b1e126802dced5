"""Public data: download it, verify it, and store it in the layout that the readers expect."""
