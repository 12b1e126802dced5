"""Base models: load them whole or in part, attach a LoRA, pool their hidden states."""
