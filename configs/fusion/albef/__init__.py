"""ALBEF: image-text contrast before fusion, matching on hard negatives, momentum distillation (Li et al., NeurIPS 2021)

Align before Fuse: Vision and Language Representation Learning with Momentum Distillation, arXiv 2107.07651.
    python -m experiments.train albef
    python -m experiments.prove albef
"""

from configs.fusion.albef import base, sizes
from configs.fusion.albef.proof import get_proof
from mmrep.config import Experiment

SIZES = ("tiny", "small", "paper")


def get_config(size: str = "small") -> Experiment:
    return {"tiny": sizes.tiny, "small": base.small, "paper": sizes.paper}[size]()


__all__ = ["SIZES", "get_config", "get_proof"]
