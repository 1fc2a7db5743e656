"""Sampling and token-by-token decoding that any decoder can use."""
