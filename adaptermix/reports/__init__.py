"""One HTML page about evaluations, searches, retrieval and adapters."""
