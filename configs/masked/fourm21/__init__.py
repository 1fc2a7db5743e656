"""4M-21: a dozen modalities and more in one model (Bachmann et al., NeurIPS 2024)

An any-to-any vision model for tens of tasks and modalities, arXiv 2406.09406. The network and objective are 4M's; the modalities are of
very different kinds: maps, texts, boxes, a palette, metadata, poses, a global embedding. Some records have a caption alone (co-training).
    python -m experiments.train fourm21
    python -m experiments.train fourm21 --variant steering                      ... continued on generation from metadata and palettes
    python -m experiments.train fourm21 --variant words                         ... continued with word embeddings as one more modality
"""

from configs.masked.fourm21 import base, sizes, variants
from configs.masked.fourm21.proof import get_proof
from mmrep.config import Experiment
from mmrep.errors import ConfigError

SIZES = ("tiny", "small", "paper")
VARIANTS = ("steering", "words")


def get_config(size: str = "small", variant: str = "") -> Experiment:
    """Raises ConfigError for a variant of another size than small."""
    if variant and size != "small":
        raise ConfigError(f"fourm21 has variant {variant!r} at size 'small' only: leave out --size {size}")
    if variant:
        return {"steering": variants.steering, "words": variants.words}[variant]()
    return {"tiny": sizes.tiny, "small": base.small, "paper": sizes.paper}[size]()


__all__ = ["SIZES", "VARIANTS", "get_config", "get_proof"]
