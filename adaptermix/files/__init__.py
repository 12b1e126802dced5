"""Files and folders: atomic writes, and reads whose errors name file and line."""
