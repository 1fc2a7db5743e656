"""Synthetic scenes as a TensorFlow Datasets builder: rendered once into array_record, read without TensorFlow.

builder(data, data_dir).download_and_prepare()
Prepared(data, data_dir).open("train")[0]      # equals data.open("train")[0]
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mmrep.config import fingerprint
from mmrep.data.columns import Blocks
from mmrep.data.scenes.source import SceneData
from mmrep.errors import DataError

_IMAGES = ("rgb", "semseg", "instances")


@dataclass(eq=False)
class SceneConfig(tfds.core.BuilderConfig):
    """A builder config that is a SceneData; its name is the data's fingerprint, so other data does not use these files."""

    data: SceneData | None = None


class MadeScenes(tfds.core.GeneratorBasedBuilder):
    """Procedural scenes through the sensors of a SceneData."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (SceneConfig(name="default", description="Pictures and captions.", data=SceneData()),)

    def _info(self) -> tfds.core.DatasetInfo:
        data = self.builder_config.data
        example = data.open(_splits(data)[0])[0]
        features = {name: _feature(name, value) for name, value in example.items()}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), description=str(data), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        data = self.builder_config.data
        return {split: self._generate_examples(data.open(split)) for split in _splits(data)}

    def _generate_examples(self, records: Blocks) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, record in enumerate(records):
            yield i, {name: _encode(name, value) for name, value in record.items()}


def builder(data: SceneData, data_dir: str) -> MadeScenes:
    """The builder of `data` under `data_dir`; `.download_and_prepare()` renders and writes, once."""
    config = SceneConfig(name=fingerprint(data), description="A SceneData.", data=data)
    return MadeScenes(config=config, data_dir=data_dir, file_format="array_record")


@dataclass(frozen=True)
class Prepared:
    """The source over the files of `builder(data, data_dir)`; its records equal those of `data`."""

    data: SceneData
    data_dir: str

    def open(self, split: str) -> "PreparedRecords":
        """Raises DataError for an unknown or empty split, and where nothing was prepared."""
        self.data.count(split)
        made = builder(self.data, self.data_dir)
        if not made.is_prepared():
            raise DataError(
                f"{made.data_path} is not prepared: run builder(data, data_dir).download_and_prepare() first"
            )
        return PreparedRecords(made.as_data_source(split))

    def texts(self, split: str) -> Iterator[str]:
        return self.data.texts(split)

    def view(self, record: dict[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        return self.data.view(record, rng)


class PreparedRecords(Sequence[dict[str, Any]]):
    def __init__(self, examples: Sequence[dict[str, Any]]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> dict[str, Any]:  # type: ignore[override]
        if not -len(self) <= i < len(self):
            raise IndexError(f"record {i} of {len(self)}")
        return {name: _decode(name, value) for name, value in self.examples[int(i) % len(self)].items()}


def _splits(data: SceneData) -> tuple[str, ...]:
    return tuple(s for s in ("train", "val", "test") if getattr(data, f"n_{s}"))


def _feature(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return tfds.features.Text()
    if isinstance(value, tuple):
        return tfds.features.Sequence(tfds.features.Text())
    if name in _IMAGES:
        return tfds.features.Image(shape=value.shape if value.ndim == 3 else (*value.shape, 1), encoding_format="png")
    if name == "caption_objects":
        return tfds.features.Sequence(np.int32)
    return tfds.features.Tensor(shape=np.shape(value), dtype=value.dtype)


def _encode(name: str, value: Any) -> Any:
    if name in _IMAGES:
        from PIL import Image

        png = io.BytesIO()
        Image.fromarray(value).save(png, format="png")
        png.seek(0)
        return png
    return list(value) if isinstance(value, tuple) else value


def _decode(name: str, value: Any) -> Any:
    if name in ("semseg", "instances"):
        return value[..., 0]
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, int):
        return np.int32(value)
    if name == "caption_objects":
        return np.asarray(value, np.int32)
    if name.startswith("caption"):
        return tuple(v.decode("utf-8") for v in value)
    return value
