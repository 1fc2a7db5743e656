"""4M over learnt tokens: any to any between the images, maps and texts of 64 x 64 scenes (Mizrahi et al., NeurIPS 2023)

Massively multimodal masked modeling, arXiv 2312.06647. Colour, depth, normals and classes as the ids of VQ-VAEs; captions, boxes, palettes.
A picture is an input as `pixels` (patches, projected) and an output as `rgb` (tokens).
    python -m experiments.train fourm_scenes                         the tokenizers first, then 4M over their ids; over an hour on two cores
    python -m experiments.generate fourm_scenes --given caption="a big red circle at the left" --targets boxes,semseg,rgb
    python -m experiments.export fourm_scenes                        one file for mmrep/assets, and its card
    python -m experiments.generate fourm_scenes --given pixels=FILE --targets caption,semseg,depth
Columns of a Table or Folder: rgb, depth, normals, semseg, caption, detections, palette. Variants train a tokenizer alone.
"""

from configs.masked.fourm_scenes import base, tokenizers
from mmrep.config import Experiment
from mmrep.errors import ConfigError

SIZES = ("tiny", "small")
VARIANTS = ("rgb", "depth", "normals", "semseg")
LIMITS = """
It was trained on synthetic scenes alone: one or two plain objects (circle, square, triangle, star, cross, diamond; red, yellow, green, blue,
purple, pink; small or big) on a white ground, 64 x 64 pixels, and captions of two fixed forms ("a big red circle left of a small blue star", "a
small pink cross at the top left"). It knows this world only: no photographs, no other words, no other shapes. What it makes of anything else
means nothing.
"""


def get_config(size: str = "small", variant: str = "") -> Experiment:
    """variant: the tokenizer of one image or map. Raises ConfigError for a variant at another size than small."""
    if not variant:
        return {"tiny": base.tiny, "small": base.small}[size]()
    if size != "small":
        raise ConfigError(f"fourm_scenes has variant {variant!r} at size small only, not at {size!r}")
    return tokenizers.tokenizer(next(m for m in tokenizers.maps() if m.name == variant))


__all__ = ["LIMITS", "SIZES", "VARIANTS", "get_config"]
