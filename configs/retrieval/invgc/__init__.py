"""InvGC: inverse graph convolution over stored embeddings, against crowding (Jian and Wang, EMNLP Findings 2023)

InvGC: Robust Cross-Modal Retrieval by Inverse Graph Convolution, arXiv 2310.13025.
    python -m experiments.train invgc
    python -m experiments.prove invgc
"""

from configs.retrieval.invgc import base, sizes
from configs.retrieval.invgc.proof import get_proof
from mmrep.config import Experiment

SIZES = ("tiny", "small", "paper")


def get_config(size: str = "small") -> Experiment:
    return {"tiny": sizes.tiny, "small": base.small, "paper": sizes.paper}[size]()


__all__ = ["SIZES", "get_config", "get_proof"]
