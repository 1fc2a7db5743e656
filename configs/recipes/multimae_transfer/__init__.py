"""Fine-tuning and probing a pretrained MultiMAE: classes, segmentation or depth (Bachmann et al., ECCV 2022, section 4)

Multi-modal multi-task masked autoencoders, arXiv 2204.01678. The encoder without masking and a new head; `multimae` is pretrained first where no
run of it is cached. Variants: "" is segmentation from RGB; probe (frozen encoder), rgbd (RGB and depth), depth (DPT head), classification.
    python -m experiments.train multimae_transfer
    python -m experiments.train multimae_transfer --variant probe
"""

from configs.recipes.multimae_transfer import base
from configs.recipes.multimae_transfer.proof import get_proof
from mmrep.config import Experiment
from mmrep.errors import ConfigError

SIZES = ("tiny", "small", "paper")
VARIANTS = ("probe", "rgbd", "depth", "classification")

__all__ = ["SIZES", "VARIANTS", "get_config", "get_proof"]


def get_config(size: str = "small", variant: str = "") -> Experiment:
    if variant and size != "small":
        raise ConfigError(f"variant {variant!r} has size small only")
    return base.small(variant) if size == "small" else {"tiny": base.tiny, "paper": base.paper}[size]()
