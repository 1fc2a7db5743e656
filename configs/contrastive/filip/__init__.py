"""FILIP: fine-grained image-text contrast by token-wise maximum similarity (Yao et al., ICLR 2022)

FILIP: Fine-grained Interactive Language-Image Pre-Training, arXiv 2111.07783.
    python -m experiments.train filip
    python -m experiments.prove filip
"""

from configs.contrastive.filip import base, sizes
from configs.contrastive.filip.proof import get_proof
from mmrep.config import Experiment

SIZES = ("tiny", "small", "paper")


def get_config(size: str = "small") -> Experiment:
    return {"tiny": sizes.tiny, "small": base.small, "paper": sizes.paper}[size]()


__all__ = ["SIZES", "get_config", "get_proof"]
