"""Discrete tokenisers: encoder, codebook and decoder of one modality, whose ids other systems learn from."""
