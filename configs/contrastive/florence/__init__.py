"""Florence: labels and captions in one contrast, in two stages, extended to video (Yuan et al., 2021)

Florence: A New Foundation Model for Computer Vision, arXiv 2111.11432.
    python -m experiments.train florence
    python -m experiments.prove florence
    python -m experiments.train florence --variant emoji       # real data: emoji with categories or names; emoji_captions: names alone
On your own data: Descriptions over a Table with the columns image, caption and, for labelled pictures, label (names: the classes in order).
The emoji are real data, split by concept family: no drawing or name of a test concept's family is in training (configs/_emoji.py).
Not here: the Dynamic Head (detection) and the METER adapter (questions); CoSwin-H is a Vision Transformer.
"""

from configs.contrastive.florence import base
from configs.contrastive.florence.proof import get_proof
from mmrep.config import Experiment
from mmrep.errors import ConfigError

SIZES = ("tiny", "small", "paper")
VARIANTS = ("emoji", "emoji_captions")


def get_config(size: str = "small", variant: str = "") -> Experiment:
    if variant and size == "small":
        return base.emoji("natural" if variant == "emoji_captions" else "all")
    if variant:
        raise ConfigError(f"variant is {variant!r} of size {size}: choose {', '.join(VARIANTS)}, of size small")
    return {"tiny": base.tiny, "small": base.small, "paper": base.paper}[size]()


__all__ = ["SIZES", "VARIANTS", "get_config", "get_proof"]
