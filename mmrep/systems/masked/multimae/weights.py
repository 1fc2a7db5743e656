"""The authors' MultiMAE weights as mmrep parameters, and back. Names and layouts only; read their file with any tool that gives arrays."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mmrep.config import flatten, unflatten
from mmrep.errors import DataError, near
from mmrep.systems.masked.multimae import Config, labels

Arrays = Mapping[str, np.ndarray]


class Leaf(NamedTuple):
    """Our leaf `path` is their weight `name`, in another layout.

    how: "same" but for leading axes of length 1.   "dense": transposed.   "conv": patches by channel, a convolution's weight.
         "patch": rows by channel, of patches that come out.   "part": part size[0] of size[1] stacked ones, transposed.
    size: (patch, channels) of "conv" and "patch".
    """

    path: str
    name: str
    how: str = "same"
    size: tuple[int, int] = (0, 0)


def from_authors(weights: Arrays, config: Config, outputs: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Parameters of `config` from a state dict of EPFL-VILAB/MultiMAE (entry "model" of their file).

    outputs: our decoder -> theirs, where the names differ; {"rgb_norm_mse": "norm_rgb"} is taken for granted.
    Key biases are left out, since softmax does not see them; position tables are fixed and not read.
    Raises DataError for a missing weight, or one of another size.
    """
    found: dict[str, Any] = {}
    for leaf in _leaves(config, outputs or {}):
        if leaf.name not in weights:
            raise DataError(f"the weights have no {leaf.name!r}{near(leaf.name, list(weights))}")
        try:
            value = _read(leaf, np.asarray(weights[leaf.name], np.float32))
        except ValueError as error:
            raise DataError(f"{leaf.name} does not fit this config ({error}): give the checkpoint's sizes") from None
        if leaf.how == "part" and leaf.path.endswith("key/bias"):
            continue
        found[leaf.path] = value
    for decoder in {p.split("/")[0] for p in found if p.startswith("out_")}:
        rows = [found.pop(f"{decoder}/map/{m.name}") for m in config.maps]
        found[f"{decoder}/map"] = np.stack(rows)
    return unflatten(found)


def to_authors(
    params: Mapping[str, Any], config: Config, outputs: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """The inverse of `from_authors`; key biases are zero."""
    flat = {p: np.asarray(v) for p, v in flatten(params).items()}
    for decoder in [p.split("/")[0] for p in flat if p.endswith("/map")]:
        flat |= {f"{decoder}/map/{m.name}": row for m, row in zip(config.maps, flat.pop(f"{decoder}/map"))}
    weights: dict[str, np.ndarray] = {}
    for leaf in _leaves(config, outputs or {}):
        value = flat.get(leaf.path)
        if value is None:
            value = np.zeros_like(flat[leaf.path.replace("key", "value")])
        value = _write(leaf, value)
        weights[leaf.name] = np.concatenate([weights[leaf.name], value]) if leaf.name in weights else value
    return weights


def _read(leaf: Leaf, w: np.ndarray) -> np.ndarray:
    a, b = leaf.size
    if leaf.how == "dense":
        return w.T
    if leaf.how == "conv":
        return w.reshape(w.shape[0], b, a, a).transpose(2, 3, 1, 0).reshape(-1, w.shape[0])
    if leaf.how == "patch":
        w = w.reshape(b, a, a, -1).transpose(1, 2, 0, 3).reshape(a * a * b, -1)
        return w.T if leaf.path.endswith("kernel") else w[:, 0]
    if leaf.how == "part":
        return np.split(w, b)[a].T
    return (
        w.reshape(-1)
        if leaf.name.endswith("mask_token") or "task_embeddings" in leaf.name
        else w.reshape(w.shape[-2:])
        if w.ndim > 2
        else w
    )


def _write(leaf: Leaf, w: np.ndarray) -> np.ndarray:
    a, b = leaf.size
    if leaf.how in ("dense", "part"):
        return w.T
    if leaf.how == "conv":
        return w.reshape(a, a, b, -1).transpose(3, 2, 0, 1)
    if leaf.how == "patch":
        w = (w.T if w.ndim == 2 else w[:, None]).reshape(a, a, b, -1).transpose(2, 0, 1, 3).reshape(a * a * b, -1)
        return w if leaf.path.endswith("kernel") else w[:, 0]
    token = leaf.name == "global_tokens" or leaf.name.endswith("mask_token") or "task_embeddings" in leaf.name
    return w.reshape(1, -1, w.shape[-1]) if token else w


def _leaves(config: Config, outputs: Mapping[str, str]) -> list[Leaf]:
    known = {"rgb_norm_mse": "norm_rgb"} | dict(outputs)
    found = [Leaf("global/tokens", "global_tokens")]
    for m in config.maps:
        ours, theirs = f"in_{m.name}", f"input_adapters.{m.name}"
        if m.classes:
            found.append(Leaf(f"{ours}/table", f"{theirs}.class_emb.weight"))
        size, ours = ((m.patch, m.class_dim), ours) if m.classes else ((m.patch, m.channels), f"{ours}/embed")
        found += [
            Leaf(f"{ours}/kernel", f"{theirs}.proj.weight", "conv", size),
            Leaf(f"{ours}/bias", f"{theirs}.proj.bias"),
        ]
    for i in range(config.depth):
        found += _block(f"encoder/block{i:02d}", f"encoder.{i}")
    for label, t in zip(labels(config.tasks), config.tasks):
        ours, theirs, m = f"out_{label}", f"output_adapters.{known.get(label, label)}", config.of(t.map)
        found.append(Leaf(f"{ours}/mask_token", f"{theirs}.mask_token"))
        found += [Leaf(f"{ours}/map/{n.name}", f"{theirs}.task_embeddings.{n.name}") for n in config.maps]
        found += _dense(f"{ours}/context", f"{theirs}.proj_context") + _dense(
            f"{ours}/cross/query", f"{theirs}.decoder.q"
        )
        found += _parts(f"{ours}/cross", f"{theirs}.decoder.kv", ("key", "value"))
        found += _dense(f"{ours}/cross/out", f"{theirs}.decoder.proj") + _mlp(f"{ours}/mlp", f"{theirs}.mlp")
        for part in ("query", "context", "out"):
            found += _norm(f"{ours}/norm_{part}", f"{theirs}.{part}_norm")
        for i in range(config.decoder_depth):
            found += _block(f"{ours}/block{i:02d}", f"{theirs}.decoder_transformer.{i}")
        size = m.patch, m.classes or m.channels
        found += [Leaf(f"{ours}/out/{a}", f"{theirs}.out_proj.{b}", "patch", size) for a, b in _WEIGHTS]
    return found


_WEIGHTS = (("kernel", "weight"), ("bias", "bias"))


def _dense(ours: str, theirs: str) -> list[Leaf]:
    return [Leaf(f"{ours}/{a}", f"{theirs}.{b}", "dense") for a, b in _WEIGHTS]


def _norm(ours: str, theirs: str) -> list[Leaf]:
    return [Leaf(f"{ours}/scale", f"{theirs}.weight"), Leaf(f"{ours}/bias", f"{theirs}.bias")]


def _parts(ours: str, theirs: str, names: tuple[str, ...]) -> list[Leaf]:
    return [
        Leaf(f"{ours}/{name}/{a}", f"{theirs}.{b}", "part", (i, len(names)))
        for a, b in _WEIGHTS
        for i, name in enumerate(names)
    ]


def _mlp(ours: str, theirs: str) -> list[Leaf]:
    return _dense(f"{ours}/up", f"{theirs}.fc1") + _dense(f"{ours}/down", f"{theirs}.fc2")


def _block(ours: str, theirs: str) -> list[Leaf]:
    found = _norm(f"{ours}/norm_attn", f"{theirs}.norm1") + _norm(f"{ours}/norm_mlp", f"{theirs}.norm2")
    found += _parts(f"{ours}/attn", f"{theirs}.attn.qkv", ("query", "key", "value"))
    return found + _dense(f"{ours}/attn/out", f"{theirs}.attn.proj") + _mlp(f"{ours}/mlp", f"{theirs}.mlp")
