"""mmrep: multimodal representation learning as small compositions of pure functions."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # JAX is imported on first use, so that `--help` and `list` answer at once.
    if name in __all__:
        from mmrep import api

        return getattr(api, name)
    raise AttributeError(f"module 'mmrep' has no attribute {name!r}")
