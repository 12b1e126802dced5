"""Tasks: data, prompts, answers and metrics."""
