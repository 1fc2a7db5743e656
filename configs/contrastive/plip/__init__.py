"""PLIP: pre-training for persons by identities, colours and attributes (Zuo et al., NeurIPS 2024)

PLIP: Language-Image Pre-training for Person Representation Learning, arXiv 2305.08386.
    python -m experiments.train plip
    python -m experiments.prove plip
On your own data: --data.source a Table with the columns image (crops of persons), caption, attributes (phrases such as "red jacket, black
bag"; unknown ones left out; text=("caption", "attributes")) and label (the person).
"""

from configs.contrastive.plip import base
from configs.contrastive.plip.proof import get_proof
from mmrep.config import Experiment

SIZES = ("tiny", "small", "paper")


def get_config(size: str = "small") -> Experiment:
    return {"tiny": base.tiny, "small": base.small, "paper": base.paper}[size]()


__all__ = ["SIZES", "get_config", "get_proof"]
