"""Encoders trained to predict masked patches, tokens, words or objects from visible ones.

**Which one to take.** MultiMAE reconstructs dense maps (pictures, depth, classes) from a few patches of any of them and is the simplest start for
fine-tuning; 4M does the same with tokens of any modality, and generates; 4M-21 has more modalities. CROMA joins masked reconstruction with a
contrast of two co-registered sensors. LXMERT hides words and detected objects, each predicted from the other. UniEmoX masks
scenes and the persons in them, and takes a frozen CLIP as its teacher. Tokenizers for 4M are in
[tokenizers](tokenizers.md).
"""
