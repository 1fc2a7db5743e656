"""Where things are kept between runs."""

import os
from pathlib import Path


def cache() -> Path:
    """The cache of prepared data, tokenizers, pretrained parts and compiled programs: $MMREP_CACHE or ~/.cache/mmrep."""
    return Path(os.environ.get("MMREP_CACHE") or Path.home() / ".cache" / "mmrep")
