"""One description of a modality: its array in a batch, the record field that it comes from, and what models derive from it.

rgb = image("rgb", 32, patch=4)           # Data(modalities=(rgb, ...)); rgb.grid == (8, 8), rgb.channels == 3
classes = label_map("semseg", 32, 13, patch=4)
words = text("caption", 17, vocab=64)

Systems derive their own view from it, so that a config states each size once: `mmrep.nn.maps` a dense modality of patches, 4M its token
modality.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from mmrep import raw
from mmrep.errors import ConfigError, DataError, near

PAD, BOS, EOS, MASK, UNK = range(5)
FIRST_PIECE = 5

Kind = Literal["image", "video", "text", "texts", "audio", "vector", "label", "map", "ids"]
Tokenize = Callable[[str, int], np.ndarray]
Augment = Callable[[np.random.Generator, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Modality:
    """One entry of a batch.

    name:      key in the batch.
    kind:      image: float32 [H, W, C] in [0, 1].  video: float32 [T, H, W, C] in [0, 1], T evenly spaced frames of the record's.
               text: int32 [L] token ids, BOS ... EOS PAD PAD.  texts: int32 [G, L], G texts of a record that is a group.
               audio: float32 [T] in [-1, 1], zero padded, with `<name>_length` int32 [] beside it.  vector: float32 of any shape.
               label: int32 [].  map: int32 [H, W] class ids; records may hold a map finer by a whole factor (see `coarser`).
               ids: int32 of any shape, in [0, vocab).
    shape:     per-example shape, () for a label.
    field:     the record's field; empty means `name`.
    vocab:     number of ids (text, texts, ids) or classes (label, map); 0 for the other kinds.
    augment:   functions (numpy generator, array) -> array of the same shape, used in training only; one draw for all frames of a video.
    rate:      samples per second (audio).
    patch:     side of a patch in pixels (image, video, map), for models that divide it into a grid.
    mean, std: models standardise numbers as (x - mean) / std; one value, or one per channel.
    missing:   whether NaN may stand for a missing number (vector); a single NaN is a vector that is missing as a whole.
    crop:      pictures and frames are resized by their shorter side and cut at the centre (CLIP); else both sides are resized.
    jitter:    training takes the frame at a random time of each of T equal segments of a video; else, as in evaluation, at its middle.
    short:     with crop, the shorter side before the cut, in pixels; 0: as long as the cut.
    resample:  interpolation of pictures and frames.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...] = ()
    field: str = ""
    vocab: int = 0
    augment: tuple[Any, ...] = ()
    rate: int = 16_000
    patch: int = 1
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    crop: bool = False
    short: int = 0
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    missing: bool = False
    jitter: bool = False

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ConfigError(f"modality {self.name!r}: kind {self.kind!r} is unknown{near(self.kind, _KINDS)}")
        rank = _KINDS[self.kind].rank
        if rank is not None and len(self.shape) != rank:
            raise ConfigError(
                f"modality {self.name!r}: shape {self.shape} does not fit kind {self.kind!r}, which has {rank} axes"
            )
        if any(n < 1 for n in self.shape):
            raise ConfigError(f"modality {self.name!r}: shape {self.shape} must be positive")
        if self.kind in ("text", "texts", "label", "map", "ids") and self.vocab < 1:
            raise ConfigError(f"modality {self.name!r}: kind {self.kind!r} needs vocab >= 1")
        if self.kind in ("image", "video", "map") and (self.patch < 1 or any(n % self.patch for n in self.size)):
            raise ConfigError(f"modality {self.name!r}: patch {self.patch} does not divide its size {self.size}")
        if self.resample not in raw.RESAMPLE:
            raise ConfigError(
                f"modality {self.name!r}: resample {self.resample!r} is unknown{near(self.resample, raw.RESAMPLE)}"
            )
        if self.short and (not self.crop or self.short < max(self.size)):
            raise ConfigError(
                f"modality {self.name!r}: short {self.short} is for crop=True, and at least as long as the size {self.size}"
            )
        if self.kind in ("image", "video") and not {len(self.mean), len(self.std)} <= {1, self.channels}:
            raise ConfigError(
                f"modality {self.name!r}: mean {self.mean} and std {self.std} must have 1 or {self.channels} values"
            )
        if not all(0 < s < math.inf for s in self.std) or not all(map(math.isfinite, self.mean)):
            raise ConfigError(
                f"modality {self.name!r}: mean {self.mean} and std {self.std} must be finite, and std above 0"
            )

    @property
    def source(self) -> str:
        """The record's field."""
        return self.field or self.name

    @property
    def dtype(self) -> Any:
        return _KINDS[self.kind].dtype

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of an image, a video or a map, in pixels."""
        first = 1 if self.kind == "video" else 0
        return self.shape[first], self.shape[first + 1]

    @property
    def channels(self) -> int:
        """Numbers per pixel of an image or a video; 1 for the other kinds."""
        return self.shape[-1] if self.kind in ("image", "video") else 1

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches of an image, a frame or a map; (1, n) of a vector's n numbers."""
        if self.kind == "vector":
            return 1, math.prod(self.shape)
        return self.size[0] // self.patch, self.size[1] // self.patch

    @property
    def classes(self) -> int:
        """Number of classes of a label or a map; 0 for the other kinds."""
        return self.vocab if self.kind in ("label", "map") else 0


Side = int | tuple[int, int]


def _sides(size: Side) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def image(
    name: str,
    size: Side,
    channels: int = 3,
    field: str = "",
    augment: tuple[Augment, ...] = (),
    *,
    patch: int = 1,
    mean: tuple[float, ...] = (0.5,),
    std: tuple[float, ...] = (0.5,),
    crop: bool = False,
    short: int = 0,
    resample: Literal["bicubic", "bilinear"] = "bicubic",
) -> Modality:
    """size: height and width, or both where they are equal."""
    shape = (*_sides(size), channels)
    return Modality(
        name,
        "image",
        shape,
        field,
        augment=augment,
        patch=patch,
        mean=mean,
        std=std,
        crop=crop,
        short=short,
        resample=resample,
    )


def video(
    name: str,
    frames: int,
    size: Side,
    channels: int = 3,
    field: str = "",
    augment: tuple[Augment, ...] = (),
    *,
    patch: int = 1,
    mean: tuple[float, ...] = (0.5,),
    std: tuple[float, ...] = (0.5,),
    crop: bool = False,
    jitter: bool = False,
) -> Modality:
    """size: height and width of a frame, or both where they are equal."""
    shape = (frames, *_sides(size), channels)
    return Modality(
        name, "video", shape, field, augment=augment, patch=patch, mean=mean, std=std, crop=crop, jitter=jitter
    )


def text(name: str, length: int, vocab: int, field: str = "", augment: tuple[Augment, ...] = ()) -> Modality:
    """length: of the ids, BOS and EOS included."""
    return Modality(name, "text", (length,), field, vocab, augment)


def texts(name: str, group: int, length: int, vocab: int, field: str = "") -> Modality:
    """group: texts a record.   length: of the ids of each, BOS and EOS included."""
    return Modality(name, "texts", (group, length), field, vocab)


def audio(name: str, samples: int, rate: int = 16_000, field: str = "", augment: tuple[Augment, ...] = ()) -> Modality:
    return Modality(name, "audio", (samples,), field, augment=augment, rate=rate)


def label(name: str, classes: int, field: str = "") -> Modality:
    return Modality(name, "label", (), field, classes)


def label_map(name: str, size: Side, classes: int, field: str = "", *, patch: int = 1) -> Modality:
    return Modality(name, "map", _sides(size), field, classes, patch=patch)


def vector(name: str, *shape: int, field: str = "", missing: bool = False) -> Modality:
    return Modality(name, "vector", shape, field, missing=missing)


def ids(name: str, *shape: int, vocab: int, field: str = "") -> Modality:
    return Modality(name, "ids", shape, field, vocab)


def encode(
    m: Modality, value: Any, tokenize: Tokenize | None, rng: np.random.Generator | None = None
) -> dict[str, np.ndarray]:
    """The batch entries of modality `m` for one raw record value; augmented where `rng` is given.

    Raises DataError for a value of the wrong kind, size or range, naming the modality and what was expected.
    """
    entries = _KINDS[m.kind].encode(m, value, tokenize, rng)
    if rng is not None and m.augment:
        for change in m.augment:
            entries[m.name] = change(rng, entries[m.name])
        if entries[m.name].shape != m.shape:
            raise DataError(f"{m.name}: an augmentation changed the shape {m.shape} to {entries[m.name].shape}")
        entries[m.name] = entries[m.name].astype(m.dtype, copy=False)
    return entries


def _image(m: Modality, value: Any, *_: Any) -> dict[str, np.ndarray]:
    return {m.name: raw.pixels(value, m.size, m.channels, m.name, m.crop, m.short, m.resample)}


def _video(m: Modality, value: Any, _: Any, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
    drawn = rng if m.jitter else None
    return {m.name: raw.frames(value, m.shape[0], m.size, m.channels, m.name, m.crop, m.short, m.resample, drawn)}


def _text(m: Modality, value: Any, tokenize: Tokenize | None, *_: Any) -> dict[str, np.ndarray]:
    words = raw.text(value, m.name)
    if tokenize is None:
        raise ConfigError(
            f"modality {m.name!r} is text and the model has no tokenizer: set data.tokenizer, or give token ids to model.infer"
        )
    return {m.name: tokenize(words, m.shape[-1])}


def _texts(m: Modality, value: Any, tokenize: Tokenize | None, *_: Any) -> dict[str, np.ndarray]:
    if not isinstance(value, (list, tuple, np.ndarray)) or len(value) != m.shape[0]:
        found = f"{len(value)} of them" if isinstance(value, (list, tuple, np.ndarray)) else type(value).__name__
        raise DataError(f"{m.name}: expected a list of {m.shape[0]} texts, found {found}")
    return {m.name: np.stack([_text(m, str(v) if isinstance(v, np.str_) else v, tokenize)[m.name] for v in value])}


def _audio(m: Modality, value: Any, *_: Any) -> dict[str, np.ndarray]:
    samples = m.shape[0]
    kept = raw.waveform(value, m.name)[:samples]
    return {m.name: np.pad(kept, (0, samples - len(kept))), f"{m.name}_length": np.array(len(kept), np.int32)}


def coarser(ids: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A map of ids [H, W] reduced to `shape` by a whole factor: the pixel nearest each cell's centre. Other maps are returned unchanged."""
    k = ids.shape[0] // shape[0] if ids.ndim == 2 else 0
    return ids[k // 2 :: k, k // 2 :: k] if k > 1 and ids.shape == (k * shape[0], k * shape[1]) else ids


def _plain(m: Modality, value: Any, *_: Any) -> dict[str, np.ndarray]:
    array = raw.numbers(value, m.name)
    if m.kind == "map":
        array = coarser(array, m.shape)
    if m.missing and array.ndim == 0 and array != array:
        array = np.full(m.shape, np.nan)
    if array.shape != m.shape:
        raise DataError(f"{m.name}: expected shape {m.shape}, found {array.shape}")
    if m.kind in ("label", "map", "ids"):
        if (array != np.trunc(array)).any():  # NaN too
            raise DataError(f"{m.name}: ids are whole numbers, found {array.dtype}")
        if array.min() < 0 or array.max() >= m.vocab:
            raise DataError(f"{m.name}: ids must lie in [0, {m.vocab}), found {array.min()}..{array.max()}")
    with np.errstate(over="ignore"):
        array = array.astype(m.dtype)
    if m.kind == "vector" and not (np.isfinite(array) | (m.missing & np.isnan(array))).all():
        raise DataError(f"{m.name}: the vector has NaN or infinite values")
    return {m.name: array}


def _example_image(m: Modality, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    return {m.name: rng.random((n, *m.shape), np.float32)}


def _example_audio(m: Modality, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    lengths = rng.integers(max(1, m.shape[0] // 2), m.shape[0] + 1, n).astype(np.int32)
    wave = rng.uniform(-0.5, 0.5, (n, *m.shape)).astype(np.float32)
    wave = np.where(np.arange(m.shape[0]) < lengths[:, None], wave, 0.0).astype(np.float32)
    return {m.name: wave, f"{m.name}_length": lengths}


def _example_vector(m: Modality, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    numbers = rng.standard_normal((n, *m.shape), np.float32)
    if m.missing:
        numbers[rng.random(n) < 0.25] = np.nan
    return {m.name: numbers}


def _example_ids(m: Modality, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    return {m.name: rng.integers(0, m.vocab, (n, *m.shape)).astype(np.int32)}


def _example_texts(m: Modality, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    return {m.name: _example_text(m, rng, n * m.shape[0])[m.name].reshape(n, *m.shape)}


def _example_text(m: Modality, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    length = m.shape[-1]
    ids = rng.integers(min(FIRST_PIECE, m.vocab - 1), m.vocab, (n, length)).astype(np.int32)
    words = rng.integers(1, max(2, length - 1), n)
    at = np.arange(length)
    ids = np.where(at <= words[:, None], ids, np.where(at == words[:, None] + 1, EOS, PAD))
    ids[:, 0] = BOS
    return {m.name: ids.astype(np.int32)}


class _KindOf(NamedTuple):
    """All that depends on a modality's kind. rank: number of axes, None for any."""

    dtype: Any
    rank: int | None
    encode: Callable[[Modality, Any, Tokenize | None, np.random.Generator | None], dict[str, np.ndarray]]
    example: Callable[[Modality, np.random.Generator, int], dict[str, np.ndarray]]


_KINDS: Mapping[str, _KindOf] = {
    "image": _KindOf(np.float32, 3, _image, _example_image),
    "video": _KindOf(np.float32, 4, _video, _example_image),
    "text": _KindOf(np.int32, 1, _text, _example_text),
    "texts": _KindOf(np.int32, 2, _texts, _example_texts),
    "audio": _KindOf(np.float32, 1, _audio, _example_audio),
    "vector": _KindOf(np.float32, None, _plain, _example_vector),
    "label": _KindOf(np.int32, 0, _plain, _example_ids),
    "map": _KindOf(np.int32, 2, _plain, _example_ids),
    "ids": _KindOf(np.int32, None, _plain, _example_ids),
}


def example(modalities: Sequence[Modality], batch_size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A random, valid batch of these modalities: for init by shape, generic tests and benchmarks."""
    rng = np.random.default_rng(seed)
    batch: dict[str, np.ndarray] = {}
    for m in modalities:
        batch |= _KINDS[m.kind].example(m, rng, batch_size)
    return batch


def check_batch(modalities: Sequence[Modality], batch: Mapping[str, Any]) -> None:
    """Raises ConfigError for the first entry of `batch` that is missing, or whose shape or dtype differs from its modality's."""
    for m in modalities:
        if m.name not in batch:
            raise ConfigError(f"batch has no {m.name!r}; it has {', '.join(sorted(batch))}")
        found = batch[m.name]
        if tuple(found.shape[1:]) != m.shape or found.dtype != m.dtype:
            raise ConfigError(
                f"batch[{m.name!r}] is {found.dtype}{list(found.shape)}, expected {np.dtype(m.dtype)}{['B', *m.shape]}"
            )
