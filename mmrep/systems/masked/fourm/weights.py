"""The authors' 4M weights as mmrep parameters, and back. Names and layouts only; read their file with any tool that gives arrays."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmrep.config import flatten, unflatten
from mmrep.errors import DataError, near
from mmrep.nn.transformer import unstack_blocks
from mmrep.systems.masked.fourm import Config

Arrays = Mapping[str, np.ndarray]
Rows = Mapping[str, Sequence[int] | np.ndarray]


class Leaf(NamedTuple):
    """Our leaf `path` is their weight `name`.

    how: "same"; "dense": transposed; "table": rows of ids; "row": with leading axes of length 1.   part: (i, n), the i-th of n stacked ones.
    """

    path: str
    name: str
    how: str = "dense"
    part: tuple[int, int] = (0, 1)


def from_authors(
    weights: Arrays, config: Config, names: Mapping[str, str] | None = None, rows: Rows | None = None
) -> dict[str, Any]:
    """Parameters of `config` (scan off) from a state dict of apple/ml-4m (their checkpoint's "model").

    names: our stream -> theirs, e.g. {"rgb": "tok_rgb@224", "pixels": "rgb@224"}.
    rows:  of a text, their id for each of our ids: vocabulary, then sentinels. Without it the ids are taken to be the same.
    Positions are fixed and not read. Raises DataError for a missing weight, or one of another size.
    """
    found: dict[str, Any] = {}
    for leaf in _leaves(config, names or {}):
        if leaf.name not in weights:
            raise DataError(f"the weights have no {leaf.name!r}{near(leaf.name, list(weights))}")
        w = np.asarray(weights[leaf.name], np.float32)
        if w.shape[0] % leaf.part[1]:
            raise DataError(
                f"{leaf.name} has {w.shape[0]} rows, which do not divide into {leaf.part[1]}: give the checkpoint's sizes"
            )
        w = np.split(w, leaf.part[1])[leaf.part[0]]
        w = w.T if leaf.how == "dense" else w.reshape(1, -1) if leaf.how == "row" else w
        if leaf.how == "table":
            w = _table(w, leaf, config, rows or {})
        found[leaf.path] = w
    return unflatten(found)


def _table(w: np.ndarray, leaf: Leaf, config: Config, rows: Rows) -> np.ndarray:
    s = next(s for s in config.streams if s.name == leaf.path.split("/")[1])
    w = w[np.asarray(rows[s.name])] if s.name in rows else w
    if len(w) != s.rows:
        raise DataError(
            f"{leaf.name} has {len(w)} rows, stream {s.name!r} {s.rows}: give `rows`, or the checkpoint's vocabulary"
        )
    return w


def to_authors(
    params: Mapping[str, Any], config: Config, names: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """The inverse of `from_authors` where ids are the same; what they tie is written twice, as in their files."""
    flat = {p: np.asarray(v) for p, v in flatten(unstack_blocks(dict(params))).items()}
    weights: dict[str, np.ndarray] = {}
    for leaf in _leaves(config, names or {}):
        w = flat[leaf.path]
        w = w.T if leaf.how == "dense" else w[None] if leaf.how == "row" else w
        weights[leaf.name] = np.concatenate([weights[leaf.name], w]) if leaf.part[0] else w
    for s in config.streams:
        theirs = (names or {}).get(s.name, s.name)
        if not s.only_input:
            weights[f"decoder_embeddings.{theirs}.mod_emb"] = weights[f"encoder_embeddings.{theirs}.mod_emb"]
            weights[f"decoder_embeddings.{theirs}.to_logits.weight"] = weights[
                f"decoder_embeddings.{theirs}.token_emb.weight"
            ]
    return weights


def _leaves(config: Config, names: Mapping[str, str]) -> Iterator[Leaf]:
    for s in config.streams:
        theirs = names.get(s.name, s.name)
        yield Leaf(f"stream/{s.name}", f"encoder_embeddings.{theirs}.mod_emb", "row")
        if s.patch:
            yield Leaf(f"pixels_{s.name}/kernel", f"encoder_embeddings.{theirs}.proj.weight")
            continue
        if s.vectors:
            yield Leaf(f"vectors_{s.name}/kernel", f"encoder_embeddings.{theirs}.emb_proj.weight")
            yield Leaf(f"vectors_{s.name}/bias", f"encoder_embeddings.{theirs}.emb_proj.bias", "same")
            continue
        yield Leaf(f"in/{s.name}", f"encoder_embeddings.{theirs}.token_emb.weight", "table")
        yield Leaf(f"out/{s.name}", f"decoder_embeddings.{theirs}.token_emb.weight", "table")
        if s.learned:
            yield Leaf(f"place/{s.name}", f"encoder_embeddings.{theirs}.pos_emb", "same")
    yield Leaf("mask/token", "mask_token", "row")
    yield Leaf("context/kernel", "decoder_proj_context.weight")
    yield Leaf("context/bias", "decoder_proj_context.bias", "same")
    for i in range(config.encoder_depth):
        ours, theirs = f"encoder/block{i:02d}", f"encoder.{i}"
        yield from _attention(f"{ours}/attn", f"{theirs}.attn", "qkv", ("query", "key", "value"))
        yield from _rest(ours, theirs, {"attn": "norm1", "mlp": "norm2"})
    for i in range(config.decoder_depth):
        ours, theirs = f"decoder/block{i:02d}", f"decoder.{i}"
        yield from _attention(f"{ours}/attn", f"{theirs}.self_attn", "qkv", ("query", "key", "value"))
        yield Leaf(f"{ours}/cross/query/kernel", f"{theirs}.cross_attn.q.weight")
        yield from _attention(f"{ours}/cross", f"{theirs}.cross_attn", "kv", ("key", "value"))
        norms = {"attn": "norm1", "cross": "query_norm", "context": "context_norm", "mlp": "norm2"}
        yield from _rest(ours, theirs, norms)
    for side in ("encoder", "decoder"):
        yield Leaf(f"{side}/norm/scale", f"{side}_norm.weight", "same")


def _attention(ours: str, theirs: str, stacked: str, parts: tuple[str, ...]) -> Iterator[Leaf]:
    for i, name in enumerate(parts):
        yield Leaf(f"{ours}/{name}/kernel", f"{theirs}.{stacked}.weight", "dense", (i, len(parts)))
    yield Leaf(f"{ours}/out/kernel", f"{theirs}.proj.weight")


def _rest(ours: str, theirs: str, norms: Mapping[str, str]) -> Iterator[Leaf]:
    for part, name in norms.items():
        yield Leaf(f"{ours}/norm_{part}/scale", f"{theirs}.{name}.weight", "same")
    for part, name in (("up", "fc1"), ("gate", "fc3"), ("down", "fc2")):
        yield Leaf(f"{ours}/mlp/{part}/kernel", f"{theirs}.mlp.{name}.weight")
