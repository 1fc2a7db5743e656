"""Templates of prompts for zero-shot classification."""

from collections.abc import Sequence
from pathlib import Path

from mmrep.errors import ConfigError, near

PLAIN = ("{}",)
PHOTO = ("a photo of a {}.",)
# The prompts of Radford et al. 2021 (CLIP) for ImageNet: these phrases, each with "a" or "the" for the last word before the name.
_BOTH = (
    "a bad photo of", "a sculpture of", "a low resolution photo of", "a rendering of", "a cropped photo of", "a bright photo of",
    "a close-up photo of", "a black and white photo of", "a painting of", "a pixelated photo of", "a jpeg corrupted photo of",
    "a blurry photo of", "a good photo of", "a doodle of", "a sketch of", "a rendition of", "a drawing of", "a dark photo of",
    "a tattoo of", "graffiti of", "art of", "itap of",
)  # fmt: skip
_ADJECTIVES = ("hard to see", "clean", "dirty", "cool", "large", "nice", "weird", "small")
_KINDS = ("plastic", "origami", "toy", "embroidered", "plushie", "cartoon")
OPENAI = (
    *(f"{phrase} {word} {{}}." for phrase in _BOTH for word in ("a", "the")),
    *(f"a photo of {word} {adjective} {{}}." for adjective in _ADJECTIVES for word in ("a", "the")),
    *(f"{word} {kind} {{}}." for kind in _KINDS for word in ("a", "the")),
    *(f"a photo of {word} {{}}." for word in ("a", "the", "one", "many", "my")),
    "itap of my {}.", "a {} in a video game.", "the {} in a video game.",
)  # fmt: skip
NAMED = {"plain": PLAIN, "photo": PHOTO, "openai": OPENAI}


def templates(name: str) -> Sequence[str]:
    """Templates of a name, or the lines of a text file; each has {} where the class name goes.

    Raises ConfigError for neither, and for a line without {}.
    """
    if name in NAMED:
        return NAMED[name]
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"--templates {name!r} is no file{near(name, NAMED)}")
    lines = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if not lines or any(line.count("{}") != 1 for line in lines):
        raise ConfigError(f"--templates {name}: each line needs {{}} once, where the class name goes")
    return lines
