"""What a modality is: the array it becomes in a batch, the record field it comes from, and how it is checked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mmrep.errors import ConfigError, DataError

PAD, BOS, EOS, MASK, UNK = range(5)
FIRST_PIECE = 5

Kind = Literal["image", "text", "audio", "vector", "label", "map"]
Tokenize = Callable[[str, int], np.ndarray]
Augment = Callable[[np.random.Generator, np.ndarray], np.ndarray]

_DTYPES = {
    "image": np.float32,
    "text": np.int32,
    "audio": np.float32,
    "vector": np.float32,
    "label": np.int32,
    "map": np.int32,
}
_RANKS = {"image": 3, "text": 1, "audio": 1, "label": 0, "map": 2}


@dataclass(frozen=True)
class Modality:
    """One entry of a batch.

    name:    key in the batch.
    kind:    image: float32 [H, W, C] in [0, 1].  text: int32 [L] token ids, BOS ... EOS PAD PAD.  audio: float32 [T] in [-1, 1],
             zero padded, with `<name>_length` int32 [] beside it.  vector: float32 of any shape.  label: int32 [].  map: int32 [H, W];
             records may hold it finer by a whole factor (see `coarser`).
    shape:   per-example shape, () for a label.
    field:   the record's field; empty means `name`.
    vocab:   number of ids (text, label, map); 0 where it has none.
    augment: functions (numpy generator, array) -> array of the same shape, used in training only.
    rate:    samples a second (audio).
    """

    name: str
    kind: Kind
    shape: tuple[int, ...] = ()
    field: str = ""
    vocab: int = 0
    augment: tuple[Any, ...] = ()
    rate: int = 16_000

    def __post_init__(self) -> None:
        if self.kind in _RANKS and len(self.shape) != _RANKS[self.kind]:
            raise ConfigError(
                f"modality {self.name!r}: shape {self.shape} does not fit kind {self.kind!r}, which has {_RANKS[self.kind]} axes"
            )
        if any(n < 1 for n in self.shape):
            raise ConfigError(f"modality {self.name!r}: shape {self.shape} must be positive")
        if self.kind in ("text", "label", "map") and self.vocab < 1:
            raise ConfigError(f"modality {self.name!r}: kind {self.kind!r} needs vocab >= 1")

    @property
    def source(self) -> str:
        return self.field or self.name

    @property
    def dtype(self) -> Any:
        return _DTYPES[self.kind]


def image(name: str, size: int, channels: int = 3, field: str = "", augment: tuple[Augment, ...] = ()) -> Modality:
    return Modality(name, "image", (size, size, channels), field, augment=augment)


def text(name: str, length: int, vocab: int, field: str = "", augment: tuple[Augment, ...] = ()) -> Modality:
    return Modality(name, "text", (length,), field, vocab, augment)


def audio(name: str, samples: int, rate: int = 16_000, field: str = "", augment: tuple[Augment, ...] = ()) -> Modality:
    return Modality(name, "audio", (samples,), field, augment=augment, rate=rate)


def label(name: str, classes: int, field: str = "") -> Modality:
    return Modality(name, "label", (), field, classes)


def label_map(name: str, size: int, classes: int, field: str = "") -> Modality:
    return Modality(name, "map", (size, size), field, classes)


def vector(name: str, *shape: int, field: str = "") -> Modality:
    return Modality(name, "vector", shape, field)


def encode(
    m: Modality, value: Any, tokenize: Tokenize | None, rng: np.random.Generator | None = None
) -> dict[str, np.ndarray]:
    """One raw record value as the batch entries of `m`; augmented where `rng` is given.

    Raises DataError for a value of the wrong kind, size or range, naming the modality and what was expected.
    """
    entries = _ENCODERS[m.kind](m, value, tokenize)
    if rng is not None and m.augment:
        for change in m.augment:
            entries[m.name] = change(rng, entries[m.name])
        if entries[m.name].shape != m.shape:
            raise DataError(f"{m.name}: an augmentation changed the shape {m.shape} to {entries[m.name].shape}")
        entries[m.name] = entries[m.name].astype(m.dtype, copy=False)
    return entries


def _numbers(m: Modality, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        raise DataError(f"{m.name}: expected numbers, found lists of unequal lengths") from None
    if array.dtype.kind in "OSUMmc":
        raise DataError(f"{m.name}: expected numbers, found {type(value).__name__} of {array.dtype}")
    return array


def _image(m: Modality, value: Any, _: Any) -> dict[str, np.ndarray]:
    pixels = _numbers(m, value)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    height, width, channels = m.shape
    if pixels.ndim != 3 or not pixels.size:
        raise DataError(f"{m.name}: expected an image of 2 or 3 axes, found shape {pixels.shape}")
    if pixels.shape[2] == 1 and channels == 3:
        pixels = np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] != channels:
        raise DataError(f"{m.name}: expected {channels} channels, found {pixels.shape[2]}")
    if pixels.shape[:2] != (height, width):
        pixels = _resize(pixels, height, width)
    if pixels.dtype == np.uint8:
        return {m.name: pixels.astype(np.float32) / 255.0}
    if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
        raise DataError(f"{m.name}: float pixels must be finite and within [0, 1]; give uint8 or scale them")
    return {m.name: pixels.astype(np.float32)}


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    if pixels.dtype != np.uint8:
        bands = [
            Image.fromarray(pixels[..., c].astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
            for c in range(pixels.shape[2])
        ]
        return np.clip(np.stack([np.asarray(b) for b in bands], axis=-1), 0.0, 1.0)
    squeezed = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    resized = np.asarray(Image.fromarray(squeezed).resize((width, height), Image.Resampling.BICUBIC))
    return resized[..., None] if resized.ndim == 2 else resized


def _text(m: Modality, value: Any, tokenize: Tokenize | None) -> dict[str, np.ndarray]:
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{m.name}: byte {error.start} is not UTF-8") from None
    if not isinstance(value, str):
        raise DataError(f"{m.name}: expected text, found {type(value).__name__}")
    if not value.strip():
        raise DataError(f"{m.name}: the text is empty")
    if tokenize is None:
        raise ConfigError(f"modality {m.name!r} is text: data.tokenizer must be set")
    return {m.name: tokenize(value, m.shape[0])}


def _audio(m: Modality, value: Any, _: Any) -> dict[str, np.ndarray]:
    wave = _numbers(m, value)
    if wave.ndim != 1 or not len(wave):
        raise DataError(f"{m.name}: expected mono samples [T], found shape {wave.shape}")
    wave = wave.astype(np.float32) / 32768.0 if wave.dtype == np.int16 else wave.astype(np.float32)
    if not np.isfinite(wave).all():
        raise DataError(f"{m.name}: the waveform has NaN or infinite samples")
    samples = m.shape[0]
    kept = np.clip(wave[:samples], -1.0, 1.0)
    return {m.name: np.pad(kept, (0, samples - len(kept))), f"{m.name}_length": np.array(len(kept), np.int32)}


def coarser(ids: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A map of ids at a whole fraction of its size, by the pixel nearest each centre; any other map comes back as it is."""
    k = ids.shape[0] // shape[0] if ids.ndim == 2 else 0
    return ids[k // 2 :: k, k // 2 :: k] if k > 1 and ids.shape == (k * shape[0], k * shape[1]) else ids


def _plain(m: Modality, value: Any, _: Any) -> dict[str, np.ndarray]:
    array = coarser(_numbers(m, value), m.shape) if m.kind == "map" else _numbers(m, value)
    if array.shape != m.shape:
        raise DataError(f"{m.name}: expected shape {m.shape}, found {array.shape}")
    if m.kind in ("label", "map"):
        if (array != np.trunc(array)).any():  # NaN too
            raise DataError(f"{m.name}: ids are whole numbers, found {array.dtype}")
        if array.min() < 0 or array.max() >= m.vocab:
            raise DataError(f"{m.name}: ids must lie in [0, {m.vocab}), found {array.min()}..{array.max()}")
    with np.errstate(over="ignore"):
        array = array.astype(m.dtype)
    if m.kind == "vector" and not np.isfinite(array).all():
        raise DataError(f"{m.name}: the vector has NaN or infinite values")
    return {m.name: array}


_ENCODERS: Mapping[str, Callable[[Modality, Any, Any], dict[str, np.ndarray]]] = {
    "image": _image, "text": _text, "audio": _audio, "vector": _plain, "label": _plain, "map": _plain,
}  # fmt: skip


def example(modalities: Sequence[Modality], batch_size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A random, valid batch of these modalities: for init by shape, generic tests and benchmarks."""
    rng = np.random.default_rng(seed)
    batch: dict[str, np.ndarray] = {}
    for m in modalities:
        shape = (batch_size, *m.shape)
        if m.kind == "image":
            batch[m.name] = rng.random(shape, np.float32)
        elif m.kind == "text":
            batch[m.name] = _example_text(rng, batch_size, m.shape[0], m.vocab)
        elif m.kind == "audio":
            lengths = rng.integers(max(1, m.shape[0] // 2), m.shape[0] + 1, batch_size).astype(np.int32)
            wave = rng.uniform(-0.5, 0.5, shape).astype(np.float32)
            batch[m.name] = np.where(np.arange(m.shape[0]) < lengths[:, None], wave, 0.0).astype(np.float32)
            batch[f"{m.name}_length"] = lengths
        elif m.kind == "vector":
            batch[m.name] = rng.standard_normal(shape, np.float32)
        else:
            batch[m.name] = rng.integers(0, m.vocab, shape).astype(np.int32)
    return batch


def _example_text(rng: np.random.Generator, batch_size: int, length: int, vocab: int) -> np.ndarray:
    ids = rng.integers(min(FIRST_PIECE, vocab - 1), vocab, (batch_size, length)).astype(np.int32)
    words = rng.integers(1, max(2, length - 1), batch_size)
    at = np.arange(length)
    ids = np.where(at <= words[:, None], ids, np.where(at == words[:, None] + 1, EOS, PAD))
    ids[:, 0] = BOS
    return ids.astype(np.int32)


def check_batch(modalities: Sequence[Modality], batch: Mapping[str, Any]) -> None:
    """Raises ConfigError with the first entry of `batch` that is missing or has another shape or dtype than its modality says."""
    for m in modalities:
        if m.name not in batch:
            raise ConfigError(f"batch has no {m.name!r}; it has {', '.join(sorted(batch))}")
        found = batch[m.name]
        if tuple(found.shape[1:]) != m.shape or found.dtype != m.dtype:
            raise ConfigError(
                f"batch[{m.name!r}] is {found.dtype}{list(found.shape)}, expected {np.dtype(m.dtype)}{['B', *m.shape]}"
            )
