"""Discrete tokenizers: encoder, codebook and decoder of one modality, whose ids are the inputs and targets of other systems."""
