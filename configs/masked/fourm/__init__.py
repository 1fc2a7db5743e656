"""4M: one model from any modality to any other (Mizrahi et al., NeurIPS 2023)

Massively multimodal masked modeling, arXiv 2312.06647. Colour, depth, normals, classes and captions as tokens; a few in, a few predicted.
    python -m experiments.train fourm
    python -m experiments.train fourm --variant captions                        ... continued on captions to images alone
    python -m experiments.generate fourm --variant captions --given caption="a big red circle" --targets semseg,rgb
"""

from configs.masked.fourm import base, sizes, variants
from configs.masked.fourm.proof import get_proof
from mmrep.config import Experiment
from mmrep.errors import ConfigError

SIZES = ("tiny", "small", "paper", "large", "xlarge", "bench")
VARIANTS = ("superres", "captions", "tokens", "modalities7", "modalities21")


def get_config(size: str = "small", variant: str = "") -> Experiment:
    """Raises ConfigError for a variant that the size does not have."""
    builders = {
        ("small", ""): base.small,
        ("small", "superres"): variants.superres,
        ("small", "captions"): variants.captions,
        ("small", "tokens"): variants.tokens,
        ("tiny", ""): sizes.tiny,
        ("paper", ""): sizes.paper,
        ("large", ""): sizes.large,
        ("xlarge", ""): sizes.xlarge,
        ("bench", ""): lambda: sizes.bench(4),
        ("bench", "modalities7"): lambda: sizes.bench(7),
        ("bench", "modalities21"): lambda: sizes.bench(21),
    }
    if (size, variant) not in builders:
        has = ", ".join(v for s, v in builders if s == size and v) or "none"
        raise ConfigError(f"fourm of size {size!r} has no variant {variant!r}; it has {has}")
    return builders[size, variant]()


__all__ = ["SIZES", "VARIANTS", "get_config", "get_proof"]
