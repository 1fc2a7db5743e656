"""The authors' CROMA weights (antofuller/CROMA) as mmrep parameters, and back: their pre-training model, or their released files."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from mmrep import modality
from mmrep.config import Data, Experiment
from mmrep.interop import names as n
from mmrep.nn import maps
from mmrep.systems.masked.croma import Config


class Names(NamedTuple):
    """What the pre-training code and the released files name differently."""

    optical: str = "optical_encoder"
    radar: str = "radar_encoder"
    fusion: str = "cross_encoder"
    gap_optical: str = "GAP_FFN_optical"
    gap_radar: str = "GAP_FFN_radar"
    attention: str = "create_{}"
    out: str = "out"


PRETRAINING = Names()
RELEASED = Names("s2_encoder", "s1_encoder", "joint_encoder", "s2_GAP_FFN", "s1_GAP_FFN", "to_{}", "to_out")


def table(config: Config, names: Names = PRETRAINING) -> tuple[n.Row, ...]:
    """Their names <-> our paths. Their attention has no biases of query and value; ours are zero."""
    rows: list[n.Row] = []
    for ours, m, theirs, gap in (
        ("optical", config.optical, names.optical, names.gap_optical),
        ("radar", config.radar, names.radar, names.gap_radar),
    ):
        order = n.channels_last((m.patch, m.channels))
        rows += [
            n.Row(f"{theirs}.linear_input.weight", f"{ours}/embed/kernel", n.chain(n.DENSE, order)),
            n.Row(f"{theirs}.linear_input.bias", f"{ours}/embed/bias"),
            *n.within(f"{theirs}.transformer", f"{ours}/transformer", transformer(names)),
            *n.norm(f"{gap}.0", f"gap_{ours}/norm"),
            *n.dense(f"{gap}.1", f"gap_{ours}/mlp/up"),
            *n.dense(f"{gap}.3", f"gap_{ours}/mlp/down"),
            *n.dense(f"global_contrast_loss.{ours}_proj", f"project_{ours}/out"),
        ]
    both = n.channels_last(*((m.patch, m.channels) for m in (config.optical, config.radar)))
    return (
        *rows,
        *n.within(names.fusion, "fusion/transformer", transformer(names, cross=True)),
        n.Row("global_contrast_loss.logit_scale", "scale/log_scale"),
        *n.dense("decoder.encoder_to_decoder", "decoder/embed"),
        *n.within("decoder.decoder", "decoder/transformer", transformer(names)),
        n.Row("decoder.mask_token", "decoder/mask_token", n.leading(2)),
        n.Row("decoder.linear_output.weight", "decoder/out/kernel", n.chain(both, n.DENSE)),
        n.Row("decoder.linear_output.bias", "decoder/out/bias", both),
    )


def transformer(names: Names, cross: bool = False) -> tuple[n.Row, ...]:
    """Self-attention, with `cross` attention to the other sensor, and an MLP a layer; a LayerNorm behind them."""
    qkv, parts = names.attention.format("qkv"), ("query", "key", "value")
    block = [
        *n.norm("0.input_norm", "norm_attn"),
        n.Row(f"0.{qkv}.weight", tuple(f"attn/{part}/kernel" for part in parts), n.chain(n.split(3), n.DENSE)),
        *n.dense(f"0.{names.out}", "attn/out"),
        n.zero("attn/query/bias", "attn/value/bias"),
    ]
    if cross:
        block += [*n.norm("1.input_norm", "norm_cross"), *n.dense("1.to_out", "cross/out")]
        block += [n.Row(f"1.{names.attention.format(p[0])}.weight", f"cross/{p}/kernel", n.DENSE) for p in parts]
        block.append(n.zero("cross/query/bias", "cross/value/bias"))
    mlp = 2 if cross else 1
    block += [*n.norm(f"{mlp}.input_norm", "norm_mlp"), *n.dense(f"{mlp}.net.0", "mlp/up"), *n.dense(f"{mlp}.net.2", "mlp/down")]  # fmt: skip
    return (*n.within("layers.{i}", "block{i:02d}", block), *n.norm("norm_out", "norm"))


def from_authors(weights: n.Arrays, config: Config) -> dict[str, Any]:
    """Parameters of `config` from a state dict: of their pre-training model, or where `config.released` from a released file, nested entries
    joined by dots ("s1_encoder.linear_input.weight").

    Raises DataError for an array that is missing, unknown or of another size.
    """
    batch = {m.name: jax.ShapeDtypeStruct(*m.spec(1)) for m in (config.optical, config.radar)}
    shapes = jax.eval_shape(config.build().init, jax.random.key(0), batch)[0]
    return n.to_params(table(config, RELEASED if config.released else PRETRAINING), weights, shapes)


def to_authors(params: Mapping[str, Any], config: Config) -> dict[str, np.ndarray]:
    """The inverse of `from_authors`, under the names of the pre-training model.

    Raises ConfigError where a bias of query or value is not zero: their model has no place for it.
    """
    return n.to_arrays(table(config), params)


def read(weights: n.Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """A released or a pre-training file as an experiment with its parameters, sizes taken from the arrays; None for other files.

    As in the authors' code, not in the arrays: 16 heads, images of 120 x 120 pixels scaled to [0, 1] per channel.
    """
    released = f"{RELEASED.radar}.linear_input.weight" in weights
    names = RELEASED if released else PRETRAINING
    optical, radar = (f"{name}.linear_input.weight" for name in (names.optical, names.radar))
    if optical not in weights or radar not in weights:
        return None
    patch, scale = 8, {"mean": (0.0,), "std": (1.0,)}
    parts = tuple(
        modality.image(name, 120, weights[at].shape[1] // patch**2, patch=patch, **scale)
        for name, at in (("optical", optical), ("radar", radar))
    )
    depth = n.count(weights, f"{names.optical}.transformer.layers.{{i}}.0.input_norm.weight")
    system = Config(maps.dense(parts[0]), maps.dense(parts[1]), released=released)
    system = replace(system, encoder=replace(system.encoder, width=len(weights[optical]), depth=depth))
    if not released:
        size = {
            "width": weights["decoder.mask_token"].shape[-1],
            "depth": n.count(weights, "decoder.decoder.layers.{i}.0.out.bias"),
        }
        system = replace(system, decoder=replace(system.decoder, **size))
    return Experiment(system, Data(None, parts)), from_authors(weights, system)
