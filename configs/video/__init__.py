"""Videos and texts: retrieval, events and their order, moments.

**Which one to take.** A mean of frame embeddings is a strong start where the caption describes the whole clip. X-Pool lets the text choose its
frames, TEFAL also its sounds; both cost a pooling for each pair of text and clip. Prompt Switch lets frames exchange prompts inside the encoder and
keeps the dot product. Where the order of events matters, take EA-VTR or HiTeA; where the moment is the answer, G2L or VideoLights; HBI weighs words and
frames by their interaction. The proofs run on synthetic codes of frames, the `small` configs on frames and sound.
"""
