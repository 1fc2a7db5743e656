"""Measures of embeddings as pure functions, and the evaluators that compose them from a config."""
