"""How well a layer's hidden states retrieve translations, and how that relates to task scores."""
