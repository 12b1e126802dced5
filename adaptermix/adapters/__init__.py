"""LoRA adapters as files: read, check, compare, describe and write them."""
