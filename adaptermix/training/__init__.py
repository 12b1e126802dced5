"""Train a LoRA on a task, on alignment, or on both."""
