"""Dual encoders: one encoder a modality, trained so that the embeddings of a pair are closer than those of other pairs.

**Which one to take.** Start with CLIP; with `system.loss=sigmoid` it is SigLIP, whose loss needs no softmax over the batch and suits small
batches and many devices. ALIGN is the same contrast with label smoothing, for many noisy pairs. Where one vector cannot hold a set of
things, or words must be found in the picture, take FILIP (token by token) or FDT (tokens of both sides through one codebook).
Where pairs have graded similarities, from a frozen encoder of one side, take CWCL; where several pictures and texts share an identity, take
the matched distributions of IRRA; where some texts are class names, take Florence's UniCL. Three or more modalities that mean something only together
need Symile; several languages of one caption need 1-to-K; modalities that bind through a common one are the recipe `emoji`;
spaces that others trained are bound by OmniBind, on stored embeddings. contrastive_gap measures
and closes the distance between the two modalities' embeddings. For codes of few bits, or a gallery that must not be embedded again, see
[retrieval](retrieval.md).
"""
