"""Learnt tokenizers inside 4M (Mizrahi et al. 2023, section 3.1): trained systems that give an image or a map its ids, and decode ids.

A tokenizer is any system with infer functions "tokenize" (the map's batch entry -> ids [B, R, C]) and "detokenize" (the batch entry
"ids" -> the map). Its parameters are part of 4M's extras, so that one file holds the whole model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from mmrep.errors import ConfigError, near
from mmrep.system import Batch, Extras, System
from mmrep.systems.masked.fourm.tokens import TokenModality

Tokenizers = Mapping[str, System]


def systems(tokenizers: Sequence[tuple[str, Any]]) -> dict[str, System]:
    """{modality: its tokenizer}."""
    return {name: config.build() for name, config in tokenizers}


def check_tokenizers(modalities: Sequence[TokenModality], tokenizers: Sequence[tuple[str, Any]]) -> None:
    """Raises ConfigError for a tokenizer of a modality that cannot have one, or that gives other ids than the modality has."""
    known = {m.name: m for m in modalities}
    for name, config in tokenizers:
        if name not in known:
            raise ConfigError(f"system.tokenizers has {name!r}, which is no modality{near(name, known)}")
        m = known[name]
        if m.is_sequence or m.input_only or m.bins:
            raise ConfigError(f"system.tokenizers has {name!r}: give it a modality with a grid and without bins")
        if (size := getattr(config, "vocab", m.vocab_size)) != m.vocab_size:
            raise ConfigError(
                f"modality {name!r} has vocab_size {m.vocab_size}, its tokenizer {size} ids: make them equal"
            )


def init(rng: PRNGKeyArray, batch: Batch, tokenizers: Tokenizers) -> Extras:
    """Extras with fresh tokenizers; a phase puts trained ones in their place. Empty where there are none."""
    keys = jax.random.split(rng, max(len(tokenizers), 1))
    drawn = {name: s.init(key, batch) for key, (name, s) in zip(keys, tokenizers.items())}
    own = {name: {"params": params, "extras": extras} for name, (params, extras) in drawn.items()}
    return {"tokenizers": own} if own else {}


def with_ids(modalities: Sequence[TokenModality], tokenizers: Tokenizers, extras: Extras, batch: Batch) -> Batch:
    """The batch with ids [B, N] in place of the maps that have a tokenizer. Entries [B, *grid] are ids already."""
    found = dict(batch)
    for m in modalities:
        if m.name in tokenizers and m.name in batch:
            x = jnp.asarray(batch[m.name])
            if x.shape[1:] != m.grid:
                own = extras["tokenizers"][m.name]
                x = tokenizers[m.name].infer["tokenize"](own["params"], own["extras"], {m.name: x})
            found[m.name] = x.reshape(len(x), -1)
    return found


def decoded(
    modalities: Sequence[TokenModality], tokenizers: Tokenizers, extras: Extras, ids: Mapping[str, Any]
) -> dict[str, Array]:
    """The maps of the ids [B, N] of modalities that have a tokenizer, in their own units and at their own size."""
    found = {}
    for m in modalities:
        if m.name in tokenizers and m.name in ids:
            own, grid = extras["tokenizers"][m.name], jnp.asarray(ids[m.name]).reshape(-1, *m.grid)
            found[m.name] = tokenizers[m.name].infer["detokenize"](own["params"], own["extras"], {"ids": grid})
    return found
