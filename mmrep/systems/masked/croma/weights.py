"""The authors' CROMA weights (antofuller/CROMA) as mmrep parameters, and back: their pre-training model, or their released files."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from mmrep import modality
from mmrep.config import Data, Experiment
from mmrep.interop.names import (
    DENSE,
    Arrays,
    Row,
    chain,
    channels_last,
    dense,
    leading,
    norm,
    split,
    to_arrays,
    to_params,
    within,
    zero,
)  # fmt: skip
from mmrep.nn.maps import Map
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


def table(config: Config, names: Names = PRETRAINING) -> tuple[Row, ...]:
    """Their names <-> our paths. Their attention has no biases of query and value; ours are zero."""
    rows: list[Row] = []
    for ours, m, theirs, gap in (
        ("optical", config.optical, names.optical, names.gap_optical),
        ("radar", config.radar, names.radar, names.gap_radar),
    ):
        order = channels_last((m.patch, m.channels))
        rows += [
            Row(f"{theirs}.linear_input.weight", f"{ours}/embed/kernel", chain(DENSE, order)),
            Row(f"{theirs}.linear_input.bias", f"{ours}/embed/bias"),
            *within(f"{theirs}.transformer", f"{ours}/transformer", transformer(names)),
            *norm(f"{gap}.0", f"summary_{ours}/norm"),
            *dense(f"{gap}.1", f"summary_{ours}/mlp/up"),
            *dense(f"{gap}.3", f"summary_{ours}/mlp/down"),
            *dense(f"global_contrast_loss.{ours}_proj", f"project_{ours}/out"),
        ]
    both = channels_last(*((m.patch, m.channels) for m in (config.optical, config.radar)))
    return (
        *rows,
        *within(names.fusion, "fusion/transformer", transformer(names, cross=True)),
        Row("global_contrast_loss.logit_scale", "scale/log_scale"),
        *dense("decoder.encoder_to_decoder", "decoder/embed"),
        *within("decoder.decoder", "decoder/transformer", transformer(names)),
        Row("decoder.mask_token", "decoder/mask_token", leading(2)),
        Row("decoder.linear_output.weight", "decoder/out/kernel", chain(both, DENSE)),
        Row("decoder.linear_output.bias", "decoder/out/bias", both),
    )


def transformer(names: Names, cross: bool = False) -> tuple[Row, ...]:
    """Self-attention, with `cross` attention to the other sensor, and an MLP a layer; a LayerNorm behind them."""
    qkv, parts = names.attention.format("qkv"), ("query", "key", "value")
    block = [
        *norm("0.input_norm", "norm_attn"),
        Row(f"0.{qkv}.weight", tuple(f"attn/{part}/kernel" for part in parts), chain(split(3), DENSE)),
        *dense(f"0.{names.out}", "attn/out"),
        zero("attn/query/bias", "attn/value/bias"),
    ]
    if cross:
        block += [*norm("1.input_norm", "norm_cross"), *dense("1.to_out", "cross/out")]
        block += [Row(f"1.{names.attention.format(p[0])}.weight", f"cross/{p}/kernel", DENSE) for p in parts]
        block.append(zero("cross/query/bias", "cross/value/bias"))
    mlp = 2 if cross else 1
    block += [*norm(f"{mlp}.input_norm", "norm_mlp"), *dense(f"{mlp}.net.0", "mlp/up"), *dense(f"{mlp}.net.2", "mlp/down")]  # fmt: skip
    return (*within("layers.{i}", "block{i:02d}", block), *norm("norm_out", "norm"))


def from_authors(weights: Arrays, config: Config) -> dict[str, Any]:
    """Parameters of `config` from a state dict: of their pre-training model, or a released file with its entries joined by dots
    ("s1_encoder.linear_input.weight"), which has neither projections nor decoder.

    Raises DataError for an array that is missing, unknown or of another size.
    """
    names = RELEASED if _released(weights) else PRETRAINING
    batch = {m.name: jax.ShapeDtypeStruct(*m.spec(1)) for m in (config.optical, config.radar)}
    shapes = jax.eval_shape(config.build().init, jax.random.key(0), batch)[0]
    if names == RELEASED:
        shapes = {k: v for k, v in shapes.items() if not k.startswith(("project", "scale", "decoder"))}
    return to_params(table(config, names), weights, shapes)


def to_authors(params: Mapping[str, Any], config: Config) -> dict[str, np.ndarray]:
    """The inverse of `from_authors`, under the names of the pre-training model.

    Raises ConfigError where a bias of query or value is not zero: their model has no place for it.
    """
    return to_arrays(table(config), params)


def _released(weights: Arrays) -> bool:
    return any(name.startswith("s1_encoder.") for name in weights)


def read(weights: Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """A released or a pre-training file as an experiment with its parameters, sizes taken from the arrays; None for other files.

    As in the authors' code, not in the arrays: 16 heads, images of 120 x 120 pixels scaled to [0, 1] per channel.
    """
    names = RELEASED if _released(weights) else PRETRAINING
    optical, radar = (f"{name}.linear_input.weight" for name in (names.optical, names.radar))
    if optical not in weights or radar not in weights:
        return None
    width, patch = len(weights[optical]), 8
    depth = len({n.split(".")[3] for n in weights if n.startswith(f"{names.optical}.transformer.layers.")})
    maps = [
        Map(name, (120, 120), patch, weights[at].shape[1] // patch**2, mean=(0.0,), std=(1.0,))
        for name, at in (("optical", optical), ("radar", radar))
    ]
    parts = tuple(modality.image(m.name, m.size, m.channels, patch=patch, mean=m.mean, std=m.std) for m in maps)
    decoder = weights.get("decoder.mask_token")
    system = Config(*maps)
    system = replace(
        system,
        encoder=replace(system.encoder, width=width, depth=depth),
        decoder=replace(system.decoder, width=system.decoder.width if decoder is None else decoder.shape[-1]),
    )
    return Experiment(system, Data(None, parts)), from_authors(weights, system)
