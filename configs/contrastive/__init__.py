"""Dual encoders: one encoder a modality, trained so that the embeddings of a pair are closer than those of other pairs."""
