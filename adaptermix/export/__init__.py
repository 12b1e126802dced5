"""Export adapters to the formats of other programs."""
