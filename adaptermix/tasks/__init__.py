"""Tasks: their data, prompts, answers and metrics."""
