"""What tests of several modules share: tiny models and data, settings, comparisons."""
