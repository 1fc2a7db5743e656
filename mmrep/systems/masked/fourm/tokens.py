"""4M's token modalities: how each becomes ids, and ids become arrays again. The tokenizers here need no training; learned ones write ids beforehand."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError, DataError
from mmrep.modality import BOS, FIRST_PIECE, PAD, Modality
from mmrep.nn.patches import patchify
from mmrep.nn.quantise import check_levels, patch_ids, patch_majority, patch_values
from mmrep.system import Batch

KEEP_SCHEMES = "random", "all", "binary"


@dataclass(frozen=True)
class BinQuantizer:
    """Ids from rounding: the mean of each patch to one of `levels` bins per channel, or each number of a vector to one of its bins.

    low, high: range of the numbers; values outside are clipped.
    """

    levels: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0

    @property
    def vocab_size(self) -> int:
        return math.prod(self.levels)

    def quantize(self, x: Float[Array | np.ndarray, "B *n"], grid: tuple[int, int]) -> Int[Array, "B N"]:
        """Ids of images [B, H, W, C], or of vectors [B, N]."""
        x = (jnp.asarray(x, jnp.float32) - self.low) / (self.high - self.low)
        if x.ndim == 2:
            return patch_ids(x[:, None, :, None], (1, x.shape[1]), self.levels).reshape(len(x), -1)
        return patch_ids(x, grid, self.levels).reshape(len(x), -1)

    def dequantize(self, ids: Int[Array | np.ndarray, "B R C"]) -> Float[Array, "B R C K"]:
        """The middle of each id's bin, in [low, high]."""
        return patch_values(jnp.asarray(ids), self.levels) * (self.high - self.low) + self.low


@dataclass(frozen=True)
class TokenModality:
    """One modality as a set or a sequence of tokens. `token_modality` derives it from the `Modality` of the batch.

    vocab_size:    number of ids, sentinels not included; 0 for input-only modalities.
    grid:          (rows, columns) of an image's tokens.
    length:        number of tokens of a sequence instead, EOS included.
    bins:          quantizer of numbers. Without one the batch holds ids: texts, or class maps (reduced to the grid by majority).
    patch_size:    > 0 for pixels [H, W, num_channels], standardised by `mean` and `std` and projected linearly per patch. Input only.
    embedding_dim: > 0 for a sequence of embeddings (4M-21's T5 captions). Input only; its ids count the embeddings from FIRST_PIECE on,
                   and a masked span is one zero vector.
    learned_positions: learned instead of sine-cosine position embeddings, for vectors, whose grid has no geometry.
    keep:          share of a sequence that is kept as input before the budget cuts it: "random" U(0, 1), "all", or "binary" (all or none).
    chunk:         number of consecutive tokens that span masking keeps or masks together; EOS is its own chunk (4M-21).
    """

    name: str
    vocab_size: int = 0
    grid: tuple[int, int] = (0, 0)
    length: int = 0
    bins: BinQuantizer | None = None
    patch_size: int = 0
    num_channels: int = 3
    embedding_dim: int = 0
    learned_positions: bool = False
    keep: Literal["random", "all", "binary"] = "random"
    chunk: int = 1
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    @property
    def is_sequence(self) -> bool:
        return self.length > 0

    @property
    def input_only(self) -> bool:
        return self.patch_size > 0 or self.embedding_dim > 0

    @property
    def num_values(self) -> int:
        """Numbers per token of an input-only modality."""
        return self.embedding_dim or self.patch_size**2 * self.num_channels

    @property
    def max_tokens(self) -> int:
        return self.length or self.grid[0] * self.grid[1]

    @property
    def sentinel(self) -> int:
        """Id of the first sentinel; the next ones follow it."""
        return FIRST_PIECE + self.length if self.embedding_dim else self.vocab_size

    @property
    def num_embeddings(self) -> int:
        """Ids and sentinels: at most every second token is masked alone, and one more sentinel ends the target."""
        return self.sentinel + (self.length + 1) // 2 + 1 if self.is_sequence else self.vocab_size


def token_modality(
    m: Modality,
    bins: tuple[int, ...] = (),
    *,
    low: float = 0.0,
    high: float = 1.0,
    vocab_size: int = 0,
    keep: Literal["random", "all", "binary"] = "random",
    chunk: int = 1,
) -> TokenModality:
    """The token modality of a modality of the batch.

    image:  pixels, with `bins` (one count per channel) ids of its patches, or with `vocab_size` ids of a learnt tokenizer.
    map:    class ids of its patches, or with `vocab_size` ids of a learnt tokenizer.
    text:   its ids without BOS.
    vector: [N] with `bins` one id per number, [L, D] a sequence of embeddings.

    vocab_size: a size above that of `bins`, or of a learnt tokenizer.   keep, chunk: of sequences.   Raises ConfigError for other kinds.
    """
    quantizer = BinQuantizer(tuple(bins), low, high) if bins else None
    size = vocab_size or (quantizer.vocab_size if quantizer else m.vocab)
    if m.kind == "text":
        return TokenModality(m.name, size, length=m.shape[0] - 1, keep=keep, chunk=chunk)
    if (m.kind == "map" and not quantizer) or (m.kind == "image" and size):
        return TokenModality(m.name, size, m.grid, bins=quantizer)
    if m.kind == "image":
        return TokenModality(m.name, grid=m.grid, patch_size=m.patch, num_channels=m.channels, mean=m.mean, std=m.std)
    if m.kind == "vector" and quantizer:
        return TokenModality(m.name, size, m.grid, bins=quantizer, learned_positions=True)
    if m.kind == "vector" and len(m.shape) == 2:
        return TokenModality(m.name, length=m.shape[0], embedding_dim=m.shape[1], keep=keep, chunk=chunk)
    raise ConfigError(f"modality {m.name!r}: kind {m.kind!r} of shape {m.shape} with bins {bins} has no tokens")


def check_modalities(modalities: Sequence[TokenModality]) -> None:
    """Raises ConfigError for token modalities that cannot work, naming the field."""
    names = [m.name for m in modalities]
    if not modalities or len({*names}) < len(names):
        raise ConfigError(f"system.modalities are named {names}: give at least one, each name once")
    for m in modalities:
        if (m.vocab_size < 2) != m.input_only or m.is_sequence == (m.grid[0] * m.grid[1] > 0) or m.max_tokens < 1:
            raise ConfigError(
                f"modality {m.name!r}: give vocab_size >= 2 (0 for pixels and embeddings) and either a grid or a length"
            )
        if (m.is_sequence and (m.patch_size or m.learned_positions)) or (m.embedding_dim and not m.is_sequence):
            raise ConfigError(
                f"modality {m.name!r}: patch_size and learned_positions need a grid, embedding_dim needs a length"
            )
        if m.keep not in KEEP_SCHEMES:
            raise ConfigError(f"modality {m.name!r}: keep is {m.keep!r}, choose 'random', 'all' or 'binary'")
        if m.chunk < 1 or (m.chunk > 1 and m.chunk >= m.length):
            raise ConfigError(f"modality {m.name!r}: chunk is {m.chunk}, give 1 or more, and less than its length")
        if m.bins:
            check_levels(m.bins.levels)
            if m.is_sequence or m.input_only:
                raise ConfigError(f"modality {m.name!r}: bins are for images and vectors, remove them")
            if m.bins.vocab_size > m.vocab_size:
                raise ConfigError(
                    f"modality {m.name!r}: bins {m.bins.levels} make {m.bins.vocab_size} ids, vocab_size must hold them"
                )


def check_ids(modalities: Sequence[TokenModality], tokens: Mapping[str, np.ndarray]) -> None:
    """Raises DataError for an id outside its modality's vocabulary. For data on the host; jitted code checks nothing."""
    for m in modalities:
        ids = np.asarray(tokens[m.name])
        if not m.input_only and ids.size and (ids.min() < 0 or ids.max() >= m.vocab_size):
            raise DataError(f"{m.name}: ids are in {ids.min()}..{ids.max()}, its vocabulary is [0, {m.vocab_size})")


class Tokens(NamedTuple):
    """Padded tokens of several modalities.

    modality: index into the config's modalities.   position: in the grid, or the order among the sequence's tokens.   valid: False for padding.
    """

    ids: Int[Array, "B N"]
    modality: Int[Array, "B N"]
    position: Int[Array, "B N"]
    valid: Bool[Array, "B N"]


def tokenize(modalities: Sequence[TokenModality], batch: Batch) -> dict[str, Int[Array, "B N"]]:
    """{name: ids} of the modalities in the batch, images in raster order. Ids of pixels and embeddings count their positions."""
    ids = {}
    for m in modalities:
        if m.name not in batch:
            continue
        x = jnp.asarray(batch[m.name])
        if m.embedding_dim:
            # Zero vectors are padding.
            x = jnp.where((x != 0).any(-1), FIRST_PIECE + jnp.arange(m.length, dtype=jnp.int32), PAD)
        elif m.patch_size:
            x = jnp.broadcast_to(jnp.arange(m.max_tokens, dtype=jnp.int32), (len(x), m.max_tokens))
        elif m.bins:
            x = m.bins.quantize(x, m.grid)
        elif not m.is_sequence:
            x = x if x.ndim == 2 else patch_majority(x, m.grid, m.vocab_size)
            x = x.reshape(len(x), -1)
        ids[m.name] = x
    return ids


def detokenize(
    modalities: Sequence[TokenModality], ids: Mapping[str, Any]
) -> dict[str, Float[Array, "B R C K"] | Int[Array, "B R C"]]:
    """Arrays of the ids [B, N] of images and vectors, one value per token: numbers where there are `bins`, else class ids."""
    arrays = {}
    for m in modalities:
        if m.name in ids and not m.is_sequence and not m.patch_size:
            grid = jnp.asarray(ids[m.name]).reshape(-1, *m.grid)
            arrays[m.name] = m.bins.dequantize(grid) if m.bins else grid
    return arrays


def input_values(modalities: Sequence[TokenModality], batch: Batch) -> dict[str, Float[Array, "B N P"]]:
    """{name: values} of the input-only modalities in the batch: patches of standardised pixels, (row, column, channel) within a patch, or embeddings."""

    def of(m: TokenModality) -> Float[Array, "B N P"]:
        x = jnp.asarray(batch[m.name])
        return patchify((x - jnp.asarray(m.mean)) / jnp.asarray(m.std), m.patch_size) if m.patch_size else x

    return {m.name: of(m) for m in modalities if m.input_only and m.name in batch}


def truncate(ids: Int[Array | np.ndarray, "B L"], length: int, chunk: int = 1) -> Int[Array, "B {length}"]:
    """A tokenised text in 4M's form: BOS removed, cut or padded to `length`, its last id (EOS) kept. Incomplete chunks are removed."""
    ids = jnp.asarray(ids)
    ids = jnp.where(ids[:, :1] == BOS, jnp.pad(ids, ((0, 0), (0, 1)))[:, 1:], ids)
    count = jnp.sum(ids != PAD, axis=1, keepdims=True)
    last = jnp.take_along_axis(ids, jnp.maximum(count - 1, 0), axis=1)
    cut = jnp.pad(ids, ((0, 0), (0, max(0, length - ids.shape[1]))))[:, :length]
    end = jnp.minimum(jnp.maximum(count - 1, 0), length - 1) // chunk * chunk
    at = jnp.arange(length)
    return jnp.where(at < end, cut, jnp.where(at == end, last, PAD)).astype(jnp.int32)


def all_tokens(ids: Mapping[str, Array | np.ndarray], modalities: Sequence[TokenModality]) -> Tokens:
    """Every token of the modalities in `ids`, unmasked. Raises ConfigError where `ids` holds no modality."""
    parts: list[Tokens] = []
    for i, m in enumerate(modalities):
        if m.name in ids:
            own = truncate(ids[m.name], m.length, m.chunk) if m.is_sequence else jnp.asarray(ids[m.name], jnp.int32)
            position = jnp.broadcast_to(jnp.arange(own.shape[1], dtype=jnp.int32), own.shape)
            valid = own != PAD if m.is_sequence else jnp.ones(own.shape, bool)
            parts.append(Tokens(own, jnp.full(own.shape, i, jnp.int32), position, valid))
    if not parts:
        raise ConfigError(f"the batch holds none of {', '.join(m.name for m in modalities)}: give at least one")
    return Tokens(*(jnp.concatenate(columns, axis=1) for columns in zip(*parts)))
