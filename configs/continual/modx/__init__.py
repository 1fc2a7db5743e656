"""Mod-X: continual training over domains that distils the old model's similarity matrix (Ni et al., ICML 2023)

Continual Vision-Language Representation Learning with Off-Diagonal Information, arXiv 2305.07437.
    python -m experiments.train modx
    python -m experiments.prove modx
"""

from configs.continual.modx import base, sizes
from configs.continual.modx.proof import get_proof
from mmrep.config import Experiment

SIZES = ("tiny", "small", "paper")


def get_config(size: str = "small") -> Experiment:
    return {"tiny": sizes.tiny, "small": base.small, "paper": sizes.paper}[size]()


__all__ = ["SIZES", "get_config", "get_proof"]
