"""CROMA: contrastive learning and masked autoencoding of radar and optical images (Fuller et al., NeurIPS 2023)

Remote sensing representations with contrastive radar-optical masked autoencoders, arXiv 2311.00566. Relative position bias only (ALiBi), no
position embedding.
    python -m experiments.train croma
    python -m experiments.prove croma
"""

from configs.masked.croma import base
from configs.masked.croma.proof import get_proof
from mmrep.config import Experiment

SIZES = ("tiny", "small", "paper", "large")


def get_config(size: str = "small") -> Experiment:
    if size in ("paper", "large"):
        return base.paper(size)
    return {"tiny": base.tiny, "small": base.small}[size]()


__all__ = ["SIZES", "get_config", "get_proof"]
