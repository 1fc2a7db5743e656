"""Where things are kept between runs."""

import os
from pathlib import Path


def cache() -> Path:
    """The cache of prepared data, tokenizers, pretrained parts and compiled programs: $MMREP_CACHE or ~/.cache/mmrep."""
    return Path(os.environ.get("MMREP_CACHE") or Path.home() / ".cache" / "mmrep")


def replace(path: Path, data: bytes | str) -> None:
    """Writes `path` so that a reader, or a run killed meanwhile, finds the old content or the new one whole. Text is UTF-8."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
