"""Symile: contrastive learning of three or more modalities by total correlation (Saporta et al., NeurIPS 2024)

Contrasting with Symile: Simple Model-Agnostic Representation Learning for Unlimited Modalities, arXiv 2411.01053.
    python -m experiments.train symile
    python -m experiments.prove symile
"""

from configs.contrastive.symile import base, sizes
from configs.contrastive.symile.proof import get_proof
from mmrep.config import Experiment

SIZES = ("tiny", "small", "paper")


def get_config(size: str = "small") -> Experiment:
    return {"tiny": sizes.tiny, "small": base.small, "paper": sizes.paper}[size]()


__all__ = ["SIZES", "get_config", "get_proof"]
