"""The authors' CROMA weights as mmrep parameters, and back. Names and layouts only; read their file with any tool that gives arrays.

Their attention has no biases of query and value, ours has: they are zero, and an export leaves them out.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mmrep.config import flatten, unflatten
from mmrep.errors import ConfigError, DataError, near
from mmrep.systems.masked.croma import Config

Arrays = Mapping[str, np.ndarray]

RELEASED = (
    ("s1_encoder.", "radar_encoder."), ("s2_encoder.", "optical_encoder."), ("joint_encoder.", "cross_encoder."),
    ("s1_GAP_FFN.", "GAP_FFN_radar."), ("s2_GAP_FFN.", "GAP_FFN_optical."), (".0.to_qkv.", ".0.create_qkv."), (".0.to_out.", ".0.out."),
    (".1.to_q.", ".1.create_q."), (".1.to_k.", ".1.create_k."), (".1.to_v.", ".1.create_v."),
)  # fmt: skip
"""What the released files call a weight -> what the pre-training code does."""


class Leaf(NamedTuple):
    """Our leaf `path` is their weight `name`: "same", transposed ("dense"), rows by channel of patches that go "in" or come "out", of the
    sensors in `parts` (patch, channels), or the third number `third` of three stacked matrices ("third")."""

    path: str
    name: str
    how: str = "same"
    parts: tuple[tuple[int, int], ...] = ()
    third: int = 0


def from_authors(weights: Arrays, config: Config) -> dict[str, Any]:
    """Parameters of `config` from a state dict of antofuller/CROMA: of their pre-training model, or a released file with its entries
    joined by dots ("s1_encoder.linear_input.weight"), which has encoders, fusion and summaries alone.

    Raises DataError for a missing weight, or one of another size.
    """
    renamed = {}
    for name, value in weights.items():
        for theirs, known in RELEASED:
            name = name.replace(theirs, known)
        renamed[name] = np.asarray(value, np.float32)
    released = not any(name.startswith("decoder.") for name in renamed)
    found: dict[str, Any] = {}
    for leaf in _leaves(config, released):
        if leaf.name not in renamed:
            raise DataError(f"the weights have no {leaf.name!r}{near(leaf.name, list(renamed))}")
        try:
            found[leaf.path] = _read(leaf, renamed[leaf.name])
        except ValueError as error:
            raise DataError(f"{leaf.name} does not fit this config ({error}): give the checkpoint's sizes") from None
    for path in [p for p in found if p.endswith(("/query/kernel", "/value/kernel"))]:
        found[path.replace("kernel", "bias")] = np.zeros(found[path].shape[1], np.float32)
    return unflatten(found)


def to_authors(params: Mapping[str, Any], config: Config) -> dict[str, np.ndarray]:
    """The inverse of `from_authors`, under the names of the pre-training model.

    Raises ConfigError where a bias of query or value is not zero: their model has no place for it.
    """
    flat = {p: np.asarray(v) for p, v in flatten(params).items()}
    stray = [p for p, v in flat.items() if p.endswith(("/query/bias", "/value/bias")) and v.any()]
    if stray:
        raise ConfigError(
            f"{stray[0]} is not zero: the authors' attention has no such bias, this model cannot be exported"
        )
    weights: dict[str, np.ndarray] = {}
    for leaf in _leaves(config, not any(p.startswith("decoder/") for p in flat)):
        value = _write(leaf, flat[leaf.path])
        weights[leaf.name] = np.concatenate([weights[leaf.name], value]) if leaf.name in weights else value
    return weights


def _read(leaf: Leaf, w: np.ndarray) -> np.ndarray:
    if leaf.how == "third":
        return np.split(w, 3)[leaf.third].T
    if leaf.how in ("in", "out"):
        rows = w.T if leaf.how == "in" else w.reshape(len(w), -1)
        blocks = np.split(rows, np.cumsum([p * p * c for p, c in leaf.parts])[:-1])
        # (channel, row, column) -> (row, column, channel)
        blocks = [
            b.reshape(c, p, p, -1).transpose(1, 2, 0, 3).reshape(len(b), -1) for b, (p, c) in zip(blocks, leaf.parts)
        ]
        rows = np.concatenate(blocks)
        return rows if leaf.how == "in" else rows.T if w.ndim == 2 else rows[:, 0]
    return w.T if leaf.how == "dense" else w.reshape(-1) if leaf.name.endswith("mask_token") else w


def _write(leaf: Leaf, v: np.ndarray) -> np.ndarray:
    if leaf.how in ("in", "out"):
        rows = v if leaf.how == "in" else v.T if v.ndim == 2 else v[:, None]
        blocks = np.split(rows, np.cumsum([p * p * c for p, c in leaf.parts])[:-1])
        blocks = [
            b.reshape(p, p, c, -1).transpose(2, 0, 1, 3).reshape(len(b), -1) for b, (p, c) in zip(blocks, leaf.parts)
        ]
        rows = np.concatenate(blocks)
        return rows.T if leaf.how == "in" else rows if v.ndim == 2 else rows[:, 0]
    return v.T if leaf.how in ("dense", "third") else v.reshape(1, 1, -1) if leaf.name.endswith("mask_token") else v


def _leaves(config: Config, released: bool) -> list[Leaf]:
    found: list[Leaf] = []
    sizes = {k: (m.patch, m.channels) for k, m in (("optical", config.optical), ("radar", config.radar))}
    for k, depth in (("optical", config.depth), ("radar", config.depth // 2)):
        theirs = f"{k}_encoder"
        found += [
            Leaf(f"{k}/embed/kernel", f"{theirs}.linear_input.weight", "in", (sizes[k],)),
            Leaf(f"{k}/embed/bias", f"{theirs}.linear_input.bias"),
            *_transformer(f"{k}/transformer", f"{theirs}.transformer", depth),
        ]
        if config.contrast:
            found += _norm(f"summary_{k}/norm", f"GAP_FFN_{k}.0") + _dense(f"summary_{k}/mlp/up", f"GAP_FFN_{k}.1")
            found += _dense(f"summary_{k}/mlp/down", f"GAP_FFN_{k}.3")
            if not released:
                found += _dense(f"project_{k}/out", f"global_contrast_loss.{k}_proj")
    if config.contrast and not released:
        found.append(Leaf("scale/log_scale", "global_contrast_loss.logit_scale"))
    if config.reconstruction:
        found += _transformer("fusion/transformer", "cross_encoder", config.depth // 2, cross=True)
        if not released:
            both = (sizes["optical"], sizes["radar"])
            found += _dense("decoder/embed", "decoder.encoder_to_decoder")
            found += _transformer("decoder/transformer", "decoder.decoder", config.decoder_depth)
            found += [Leaf("decoder/mask_token", "decoder.mask_token")]
            found += [Leaf(f"decoder/out/{a}", f"decoder.linear_output.{b}", "out", both) for a, b in _WEIGHTS]
    return found


_WEIGHTS = (("kernel", "weight"), ("bias", "bias"))


def _dense(ours: str, theirs: str) -> list[Leaf]:
    return [Leaf(f"{ours}/{a}", f"{theirs}.{b}", "dense" if a == "kernel" else "same") for a, b in _WEIGHTS]


def _norm(ours: str, theirs: str) -> list[Leaf]:
    return [Leaf(f"{ours}/scale", f"{theirs}.weight"), Leaf(f"{ours}/bias", f"{theirs}.bias")]


def _transformer(ours: str, theirs: str, depth: int, cross: bool = False) -> list[Leaf]:
    found: list[Leaf] = []
    for i in range(depth):
        block, layer = f"{ours}/block{i:02d}", f"{theirs}.layers.{i}"
        found += _norm(f"{block}/norm_attn", f"{layer}.0.input_norm") + _dense(f"{block}/attn/out", f"{layer}.0.out")
        for third, name in enumerate(("query", "key", "value")):
            qkv = f"{layer}.0.create_qkv.weight"
            found.append(Leaf(f"{block}/attn/{name}/kernel", qkv, "third", third=third))
            if cross:
                found.append(Leaf(f"{block}/cross/{name}/kernel", f"{layer}.1.create_{name[0]}.weight", "dense"))
        if cross:
            found += _norm(f"{block}/norm_cross", f"{layer}.1.input_norm")
            found += _dense(f"{block}/cross/out", f"{layer}.1.to_out")
        last = f"{layer}.{2 if cross else 1}"
        found += _norm(f"{block}/norm_mlp", f"{last}.input_norm") + _dense(f"{block}/mlp/up", f"{last}.net.0")
        found += _dense(f"{block}/mlp/down", f"{last}.net.2")
    return found + _norm(f"{ours}/norm", f"{theirs}.norm_out")
