"""HTML reports on evaluations, searches, retrieval analyses and adapters."""
