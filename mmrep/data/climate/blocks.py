"""Which part of the world belongs to which split: tiles of held-out blocks, and training windows that keep their distance from them.

The grid is that of COADS between 60 S and 60 N: cells of 2 degrees, rows from south to north, columns eastwards from 20 E, closed in a ring.
Neighbours on a map are almost copies of each other, and so are months: what is held out is held out in all months, with a strip around it
that nobody sees.
"""

from functools import cache

import numpy as np
from jaxtyping import Bool, Int

ROWS, COLUMNS, CELL = 60, 180, 2.0
SOUTH, WEST = -60.0, 20.0
"""Edges of the first row and of the first column, degrees."""
BLOCK = 15
"""Cells of a block's side: 30 degrees."""
TILE = 12
"""Cells of a tile's side: 24 degrees. A held-out block's tile leaves 2 degrees of it free in the south and west, 4 in the north and east."""
GAP = 3
"""The least number of cells between tiles of different splits: 6 degrees."""


def side(band: int, column: int) -> str:
    """The split of a block. A lattice in place of a hash: each band of latitude has two test and two val blocks, and none of them touch."""
    return {0: "test", 3: "val"}.get((column - band) % 6, "train")


@cache
def held_out() -> Bool[np.ndarray, "60 180"]:
    """The cells of all val and test tiles."""
    cells = np.zeros((ROWS, COLUMNS), bool)
    for row, column in np.concatenate([corners("val"), corners("test")]):
        cells[row : row + TILE, column : column + TILE] = True
    return cells


@cache
def train_cells() -> Bool[np.ndarray, "60 180"]:
    """The cells that training may see: those with at least GAP cells between them and every held-out tile."""
    near = held_out()
    for _ in range(GAP):
        near = near | np.roll(near, 1, 1) | np.roll(near, -1, 1)
        above, below = np.zeros_like(near), np.zeros_like(near)
        above[1:], below[:-1] = near[:-1], near[1:]
        near = near | above | below
    return ~near


@cache
def corners(split: str) -> Int[np.ndarray, "N 2"]:
    """(row, column) of the south-western cell of each tile: one a block in val and test; in train every window of train cells alone."""
    if split != "train":
        bands, columns = ROWS // BLOCK, COLUMNS // BLOCK
        return np.array(
            [(b * BLOCK + 1, c * BLOCK + 1) for b in range(bands) for c in range(columns) if side(b, c) == split]
        )
    ring = np.concatenate([train_cells(), train_cells()[:, : TILE - 1]], axis=1)
    whole = np.lib.stride_tricks.sliding_window_view(ring, (TILE, TILE)).all((2, 3))
    return np.argwhere(whole)
