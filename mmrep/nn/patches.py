"""Images as patches in reading order, and back."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from mmrep.errors import ConfigError

Images = Float[Array | np.ndarray, "B H W C"]


def patchify(images: Num[Array | np.ndarray, "B H W C"], patch: int) -> Num[Array, "B N P"]:
    """Cuts images into patches in reading order, each flattened as (row, column, channel); P = patch * patch * C.

    Raises ConfigError where `patch` does not divide height and width.
    """
    b, h, w, c = images.shape
    if patch <= 0 or h % patch or w % patch:
        raise ConfigError(f"patch is {patch} and the image is {h}x{w}; choose a patch that divides both sides.")
    x = jnp.asarray(images).reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(patches: Num[Array, "B N P"], patch: int, grid: tuple[int, int] | None = None) -> Num[Array, "B H W C"]:
    """The inverse of `patchify`; `grid` is (rows, columns) of patches, square where None.

    Raises ConfigError where the patches fill no such grid or hold no whole pixels.
    """
    b, n, p = patches.shape
    rows, columns = grid or (round(n**0.5),) * 2
    if rows * columns != n or p % (patch * patch):
        raise ConfigError(f"{n} patches of {p} values do not make a {rows}x{columns} grid of patch {patch}; give grid.")
    x = patches.reshape(b, rows, columns, patch, patch, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * patch, columns * patch, -1)
