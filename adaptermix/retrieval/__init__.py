"""Translation retrieval with a layer's hidden states, and its correlation with task scores."""
