"""The authors' 4M weights (apple/ml-4m, entry "model" of a checkpoint) as mmrep parameters, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from mmrep import modality
from mmrep.config import Data, Experiment
from mmrep.interop.names import (
    DENSE,
    SAME,
    Arrays,
    Row,
    chosen,
    fused,
    leading,
    to_arrays,
    to_params,
    unused,
    within,
)  # fmt: skip
from mmrep.modality import Modality
from mmrep.systems.masked.fourm import Config
from mmrep.systems.masked.fourm.masking import DirichletMixture, alphas
from mmrep.systems.masked.fourm.model import BASE
from mmrep.systems.masked.fourm.tokens import token_modality

MLP = tuple(Row(f"mlp.{a}.weight", f"mlp/{b}/kernel", DENSE) for a, b in (("fc1", "up"), ("fc3", "gate"), ("fc2", "down")))  # fmt: skip
QKV = ("query", "key", "value")
ENCODER_BLOCK = (
    Row("norm1.weight", "norm_attn/scale"),
    *fused("attn.qkv", "attn", QKV),
    Row("attn.proj.weight", "attn/out/kernel", DENSE),
    Row("norm2.weight", "norm_mlp/scale"),
    *MLP,
)
DECODER_BLOCK = (
    Row("norm1.weight", "norm_attn/scale"),
    *fused("self_attn.qkv", "attn", QKV),
    Row("self_attn.proj.weight", "attn/out/kernel", DENSE),
    Row("query_norm.weight", "norm_cross/scale"),
    Row("context_norm.weight", "norm_context/scale"),
    Row("cross_attn.q.weight", "cross/query/kernel", DENSE),
    *fused("cross_attn.kv", "cross", ("key", "value")),
    Row("cross_attn.proj.weight", "cross/out/kernel", DENSE),
    Row("norm2.weight", "norm_mlp/scale"),
    *MLP,
)
SHARED = (
    Row("mask_token", "mask_token/token", leading(1)),
    Row("decoder_proj_context.weight", "decoder_proj_context/kernel", DENSE),
    Row("decoder_proj_context.bias", "decoder_proj_context/bias"),
    *within("encoder.{i}", "encoder/block{i:02d}", ENCODER_BLOCK),
    *within("decoder.{i}", "decoder/block{i:02d}", DECODER_BLOCK),
    Row("encoder_norm.weight", "encoder/norm/scale"),
    Row("decoder_norm.weight", "decoder/norm/scale"),
)


def table(
    config: Config,
    names: Mapping[str, str] | None = None,
    rows: Mapping[str, Sequence[int] | np.ndarray] | None = None,
) -> tuple[Row, ...]:
    """Their names <-> our paths.

    names: our modality -> theirs, e.g. {"rgb": "tok_rgb@224", "pixels": "rgb@224"}.
    rows:  of a sequence, their id for each of our ids: vocabulary, then sentinels. Without it the ids are taken to be equal.
    Their files hold tied weights twice, and fixed position embeddings, which are not used.
    """
    found = [*SHARED]
    for m in config.modalities:
        theirs = (names or {}).get(m.name, m.name)
        encoder, decoder = f"encoder_embeddings.{theirs}", f"decoder_embeddings.{theirs}"
        order = chosen(rows[m.name]) if rows and m.name in rows else SAME
        if m.learned_positions:
            found.append(Row(f"{encoder}.pos_emb", f"pos_emb/{m.name}", leading(1)))
            found.append(Row(f"{decoder}.pos_emb", f"pos_emb/{m.name}", leading(1), tied=True))
        else:
            found.append(unused(f"{encoder}.pos_emb", f"{decoder}.pos_emb"))
        found += [
            Row(f"{encoder}.mod_emb", f"mod_emb/{m.name}", leading(1)),
            Row(f"{encoder}.token_emb.weight", f"encoder_embeddings/{m.name}", order),
            Row(f"{decoder}.token_emb.weight", f"decoder_embeddings/{m.name}", order),
            Row(f"{decoder}.to_logits.weight", f"decoder_embeddings/{m.name}", order, tied=True),
        ]
        if m.input_only:
            proj = "emb_proj" if m.embedding_dim else "proj"
            found.append(Row(f"{encoder}.{proj}.weight", f"proj_{m.name}/kernel", DENSE))
            found.append(Row(f"{encoder}.{proj}.bias", f"proj_{m.name}/bias"))
        else:
            found.append(Row(f"{decoder}.mod_emb", f"mod_emb/{m.name}", leading(1), tied=True))
    return tuple(found)


def from_authors(
    weights: Arrays,
    config: Config,
    names: Mapping[str, str] | None = None,
    rows: Mapping[str, Sequence[int] | np.ndarray] | None = None,
) -> dict[str, Any]:
    """Parameters of `config` from a state dict. Raises DataError for an array that is missing, unknown or of another size."""
    shapes = jax.eval_shape(config.model().init, jax.random.key(0))
    return to_params(table(config, names, rows), weights, shapes)


def to_authors(
    params: Mapping[str, Any], config: Config, names: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """The inverse of `from_authors` where ids are equal; tied weights are written twice, as in their files."""
    return to_arrays(table(config, names), params)


def read(weights: Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """A checkpoint's pixels and image tokens as an experiment with its parameters, sizes taken from the arrays; None for other files.

    Texts are left out, since their ids belong to another tokenizer (`rows` of `table` maps them), and so are tokens with learned
    positions, which their encoder and decoder do not share. Heads have 64 numbers, as in the published sizes, unless config.json has
    "num_heads".
    """
    if "decoder_proj_context.weight" not in weights:
        return None
    names = sorted({n.split(".")[1] for n in weights if n.startswith("encoder_embeddings.")})
    parts = tuple(m for m in (_modality(weights, name) for name in names) if m is not None)
    if not parts:
        return None
    width = len(weights["decoder_proj_context.weight"])
    depths = (len({n.split(".")[1] for n in weights if n.startswith(f"{side}.")}) for side in ("encoder", "decoder"))
    heads = int(about.get("num_heads", max(1, width // 64)))
    encoder, decoder = (replace(BASE, width=width, depth=depth, heads=heads) for depth in depths)
    tokens = tuple(token_modality(m) for m in parts)
    targets = alphas([m.name for m in tokens if not m.input_only], 1.0)
    mixture = DirichletMixture(alphas([m.name for m in tokens], 1.0), targets)
    system = Config(tokens, (mixture,), encoder=encoder, decoder=decoder)
    left = {*names} - {m.name for m in parts}
    kept = {n: v for n, v in weights.items() if not ("_embeddings." in n and n.split(".")[1] in left)}
    return Experiment(system, Data(None, parts)), from_authors(kept, system)


SIDE = 224  # pixels of an image


def _modality(weights: Arrays, name: str) -> Modality | None:
    at = f"encoder_embeddings.{name}"
    if f"{at}.proj.weight" in weights:
        return modality.image(name, SIDE, patch=round((weights[f"{at}.proj.weight"].shape[1] / 3) ** 0.5))
    if not name.startswith("tok_") or "@" not in name or f"decoder_embeddings.{name}.token_emb.weight" not in weights:
        return None
    tokens = weights[f"{at}.pos_emb"].shape[1] if f"{at}.pos_emb" in weights else 196
    return modality.label_map(name, round(tokens**0.5), len(weights[f"{at}.token_emb.weight"]))
