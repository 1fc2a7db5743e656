"""Florence: labels and captions in one contrast, in two stages, extended to video (Yuan et al., 2021)

Florence: A New Foundation Model for Computer Vision, arXiv 2111.11432.
    python -m experiments.train florence
    python -m experiments.prove florence
On your own data: Descriptions over a Table with the columns image, caption and, for labelled pictures, label (names: the classes in order).
Not here: the Dynamic Head (detection) and the METER adapter (questions); CoSwin-H is a Vision Transformer.
"""

from configs.contrastive.florence import base
from configs.contrastive.florence.proof import get_proof
from mmrep.config import Experiment

SIZES = ("tiny", "small", "paper")


def get_config(size: str = "small") -> Experiment:
    return {"tiny": base.tiny, "small": base.small, "paper": base.paper}[size]()


__all__ = ["SIZES", "get_config", "get_proof"]
