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
from mmrep.systems.masked.fourm import Config
from mmrep.systems.masked.fourm.masking import Mixture, Stream
from mmrep.systems.masked.fourm.model import BASE

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
    Row("mask_token", "mask/token", leading(1)),
    Row("decoder_proj_context.weight", "context/kernel", DENSE),
    Row("decoder_proj_context.bias", "context/bias"),
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

    names: our stream -> theirs, e.g. {"rgb": "tok_rgb@224", "pixels": "rgb@224"}.
    rows:  of a text, their id for each of our ids: vocabulary, then sentinels. Without it the ids are taken to be the same.
    What they tie is in their files twice; fixed positions are not needed.
    """
    found = [*SHARED]
    for s in config.streams:
        theirs = (names or {}).get(s.name, s.name)
        read, written = f"encoder_embeddings.{theirs}", f"decoder_embeddings.{theirs}"
        order = chosen(rows[s.name]) if rows and s.name in rows else SAME
        if s.learned:
            found.append(Row(f"{read}.pos_emb", f"place/{s.name}", leading(1)))
            found.append(Row(f"{written}.pos_emb", f"place/{s.name}", leading(1), tied=True))
        else:
            found.append(unused(f"{read}.pos_emb", f"{written}.pos_emb"))
        found += [
            Row(f"{read}.mod_emb", f"stream/{s.name}", leading(1)),
            Row(f"{read}.proj.weight", f"pixels_{s.name}/kernel", DENSE),
            Row(f"{read}.emb_proj.weight", f"vectors_{s.name}/kernel", DENSE),
            Row(f"{read}.emb_proj.bias", f"vectors_{s.name}/bias"),
            Row(f"{read}.token_emb.weight", f"in/{s.name}", order),
            Row(f"{written}.token_emb.weight", f"out/{s.name}", order),
            Row(f"{written}.to_logits.weight", f"out/{s.name}", order, tied=True),
        ]
        if not s.only_input:
            found.append(Row(f"{written}.mod_emb", f"stream/{s.name}", leading(1), tied=True))
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
    """The inverse of `from_authors` where ids are the same; what they tie is written twice, as in their files."""
    return to_arrays(table(config, names), params)


def read(weights: Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """A checkpoint's pixels and image tokens as an experiment with its parameters, sizes taken from the arrays; None for other files.

    Texts are left out, since their ids belong to another tokenizer (`rows` of `table` maps them), and so are tokens with learnt positions,
    which their encoder and decoder do not share. Heads have 64 numbers, as in the published sizes, unless config.json has "num_heads".
    """
    if "decoder_proj_context.weight" not in weights:
        return None
    names = sorted({n.split(".")[1] for n in weights if n.startswith("encoder_embeddings.")})
    streams = tuple(s for s in (_stream(weights, name) for name in names) if s is not None)
    if not streams:
        return None
    width = len(weights["decoder_proj_context.weight"])
    depths = (len({n.split(".")[1] for n in weights if n.startswith(f"{side}.")}) for side in ("encoder", "decoder"))
    mixture = Mixture((1.0,) * len(streams), tuple(0.0 if s.only_input else 1.0 for s in streams))
    heads = int(about.get("num_heads", max(1, width // 64)))
    encoder, decoder = (replace(BASE, width=width, depth=depth, heads=heads) for depth in depths)
    system = Config(streams, (mixture,), encoder=encoder, decoder=decoder)
    parts = tuple(
        modality.image(s.name, SIDE, s.channels, patch=s.patch) if s.patch else modality.label_map(s.name, s.grid, s.vocab)
        for s in streams
    )  # fmt: skip
    left = {*names} - {s.name for s in streams}
    kept = {n: v for n, v in weights.items() if not ("_embeddings." in n and n.split(".")[1] in left)}
    return Experiment(system, Data(None, parts)), from_authors(kept, system)


SIDE = 224  # pixels of an image


def _stream(weights: Arrays, name: str) -> Stream | None:
    at = f"encoder_embeddings.{name}"
    if f"{at}.proj.weight" in weights:
        patch = round((weights[f"{at}.proj.weight"].shape[1] / 3) ** 0.5)
        return Stream(name, 0, (SIDE // patch,) * 2, patch=patch)
    if not name.startswith("tok_") or "@" not in name or f"decoder_embeddings.{name}.token_emb.weight" not in weights:
        return None
    places = weights[f"{at}.pos_emb"].shape[1] if f"{at}.pos_emb" in weights else 196
    side = round(places**0.5)
    return Stream(name, len(weights[f"{at}.token_emb.weight"]), (side, side))
