"""Public data: where it is, whether it is what was published, and how it is laid out here."""
