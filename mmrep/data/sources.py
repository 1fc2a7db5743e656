"""Your own data: Folder, Table, Shards, TFDS and Arrays. Each is a frozen dataclass with open(split), texts(split) and view(record, rng)."""

from mmrep.data.arrays import Arrays
from mmrep.data.decode import Limits
from mmrep.data.folder import Folder
from mmrep.data.shards import Shards
from mmrep.data.tables import Table
from mmrep.data.tfds_source import TFDS

__all__ = ["TFDS", "Arrays", "Folder", "Limits", "Shards", "Table"]
