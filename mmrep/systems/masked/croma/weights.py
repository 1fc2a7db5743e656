"""The authors' CROMA weights (antofuller/CROMA) as mmrep parameters, and back: their pre-training model, or their released files."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mmrep import modality
from mmrep.config import Data, Experiment
from mmrep.interop import names as n
from mmrep.nn.maps import dense
from mmrep.systems.masked.croma import Config

QKV = ("query", "key", "value")
SELF = (
    *n.norm("0.input_norm", "norm_attn"), *n.dense("0.out", "attn/out"), n.zero("attn/query/bias", "attn/value/bias"),
    n.Row("0.create_qkv.weight", tuple(f"attn/{k}/kernel" for k in QKV), n.chain(n.split(3), n.DENSE)),
)  # fmt: skip
CROSS = (
    *n.norm("1.input_norm", "norm_cross"), *n.dense("1.to_out", "cross/out"), n.zero("cross/query/bias", "cross/value/bias"),
    *(n.Row(f"1.create_{k[0]}.weight", f"cross/{k}/kernel", n.DENSE) for k in QKV),
)  # fmt: skip
RELEASED = (
    ("radar_encoder.", "s1_encoder."), ("optical_encoder.", "s2_encoder."), ("cross_encoder.", "joint_encoder."),
    ("GAP_FFN_radar.", "s1_GAP_FFN."), ("GAP_FFN_optical.", "s2_GAP_FFN."), (".create_", ".to_"), (".0.out.", ".0.to_out."),
)  # fmt: skip
"""Names of the pre-training code -> those of the released files, which have neither projections nor decoder."""


def table(config: Config) -> tuple[n.Row, ...]:
    """Their names <-> our paths. Their attention has no biases of query and value; ours are zero."""
    sizes = [(m.patch, m.channels) for m in (config.optical, config.radar)]
    both = n.channels_last(*sizes)
    rows = [
        *_transformer("cross_encoder", "fusion", *SELF, *CROSS),
        n.Row("global_contrast_loss.logit_scale", "scale/log_scale"),
        *n.dense("decoder.encoder_to_decoder", "decoder/embed"),
        *_transformer("decoder.decoder", "decoder/transformer", *SELF),
        n.Row("decoder.mask_token", "decoder/mask_token", n.leading(2)),
        n.Row("decoder.linear_output.weight", "decoder/out/kernel", n.chain(both, n.DENSE)),
        n.Row("decoder.linear_output.bias", "decoder/out/bias", both),
    ]
    for k, order in zip(("optical", "radar"), map(n.channels_last, sizes)):
        rows += [
            n.Row(f"{k}_encoder.linear_input.weight", f"{k}/embed/kernel", n.chain(n.DENSE, order)),
            n.Row(f"{k}_encoder.linear_input.bias", f"{k}/embed/bias"),
            *_transformer(f"{k}_encoder.transformer", f"{k}/transformer", *SELF),
            *n.norm(f"GAP_FFN_{k}.0", f"gap_{k}/norm"), *n.dense(f"global_contrast_loss.{k}_proj", f"project_{k}/out"),
            *n.dense(f"GAP_FFN_{k}.1", f"gap_{k}/mlp/up"), *n.dense(f"GAP_FFN_{k}.3", f"gap_{k}/mlp/down"),
        ]  # fmt: skip
    return n.renamed(rows, RELEASED if config.released else ())


def _transformer(theirs: str, ours: str, *attention: n.Row) -> tuple[n.Row, ...]:
    i = 2 if len(attention) > len(SELF) else 1
    mlp = *n.norm(f"{i}.input_norm", "norm_mlp"), *n.dense(f"{i}.net.0", "mlp/up"), *n.dense(f"{i}.net.2", "mlp/down")
    block = n.within("layers.{i}", "block{i:02d}", (*attention, *mlp))
    return n.within(theirs, ours, (*block, *n.norm("norm_out", "norm")))


def from_authors(weights: n.Arrays, config: Config) -> dict[str, Any]:
    """Parameters of `config` from a state dict, nested entries joined by dots. Raises DataError for an array that does not fit."""
    return n.to_params(table(config), weights, n.shapes_of_system(config, (config.optical, config.radar)))


def to_authors(params: Mapping[str, Any], config: Config) -> dict[str, np.ndarray]:
    """The inverse of `from_authors`. Raises ConfigError where a bias of query or value is not zero, since their model has none."""
    return n.to_arrays(table(config), params)


def read(weights: n.Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """A released or a pre-training file as an experiment with its parameters, sizes taken from the arrays; None for other files.

    Not in the arrays, and as in the authors' code: 16 heads, patches of 8 x 8, images of 120 x 120 pixels scaled to [0, 1] per channel.
    """
    released = "s1_encoder.linear_input.weight" in weights
    optical, radar = ("s2_encoder", "s1_encoder") if released else ("optical_encoder", "radar_encoder")
    if not {f"{optical}.linear_input.weight", f"{radar}.linear_input.weight"} <= {*weights}:
        return None
    first, second = (weights[f"{k}.linear_input.weight"] for k in (optical, radar))
    sizes = {"optical": first.shape[1] // 64, "radar": second.shape[1] // 64}
    parts = tuple(modality.image(k, 120, c, patch=8, mean=(0.0,), std=(1.0,)) for k, c in sizes.items())
    system = Config(optical=dense(parts[0]), radar=dense(parts[1]), released=released)
    depth = n.count(weights, f"{optical}.transformer.layers.{{i}}.0.input_norm.weight")
    system = replace(system, encoder=replace(system.encoder, width=len(first), depth=depth))
    if not released:
        width, depth = (
            weights["decoder.mask_token"].shape[-1],
            n.count(weights, "decoder.decoder.layers.{i}.0.out.bias"),
        )
        system = replace(system, decoder=replace(system.decoder, width=width, depth=depth))
    return Experiment(system, Data(None, parts)), from_authors(weights, system)
