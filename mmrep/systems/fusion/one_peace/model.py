"""ONE-PEACE's network: adapters, the encoder of one or several modalities, and the light decoder."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.masking.tokens import Preserved, preserve
from mmrep.nn.encoders.relative_text import distance_buckets
from mmrep.nn.heads import LogScale, l2_normalise
from mmrep.nn.positions import grid_offsets, with_cls
from mmrep.nn.transformer import gelu
from mmrep.system import Batch
from mmrep.systems.fusion.one_peace.blocks import Stack

INIT = nn.initializers.normal(0.02)


class OnePeace(nn.Module):
    """All parts of a Config of this system; a sound has samples / product of `sound_strides` tokens."""

    config: Any

    def setup(self) -> None:
        self.dtype = kind = jnp.dtype(self.config.dtype)
        o, c, d = self.config, self.config.transformer, self.config.decoder
        counts, names = self.counts(), tuple(self.counts())
        side = o.size // int(np.prod(o.strides))
        distances = {n: distance_buckets(counts[n] - 1, o.buckets, 4 * o.buckets) for n in ("text", "sound")}
        pairs = {n: with_cls(x, o.buckets) for n, x in distances.items()}
        self.pairs = pairs | {"image": with_cls(grid_offsets(side), (2 * side - 1) ** 2)}
        rows = tuple((n, int(self.pairs[n].max()) + 1) for n in names)
        self.encoder = Stack(c, o.layer_scale, rows, kind)
        self.filler = Stack(d, o.layer_scale, dtype=kind)
        self.text_embed = nn.Embed(o.vocab, c.width, dtype=kind, embedding_init=INIT)
        widths = [max(c.width // 4, 1)] * (len(o.strides) - 1) + [c.width]
        self.image_convs = [nn.Conv(w, (s, s), (s, s), "VALID", dtype=kind) for w, s in zip(widths, o.strides)]
        self.image_norms = [nn.LayerNorm(dtype=kind) for _ in widths[1:]]
        self.sound_convs = [nn.Conv(c.width, (s,), (s,), "VALID", dtype=kind) for s in o.sound_strides]
        self.sound_norm, self.sound_map = nn.LayerNorm(dtype=kind), nn.Dense(c.width, dtype=kind)
        self.sound_positions = [
            nn.Conv(c.width, (o.kernel,), padding="SAME", feature_group_count=o.groups, dtype=kind) for _ in range(o.convs)
        ]  # fmt: skip
        self.sound_cls_position = self.param("sound_cls_position", INIT, (c.width,))
        self.cls = {n: self.param(f"{n}_cls", INIT, (c.width,)) for n in ("image", "sound")}
        self.places = {n: self.param(f"{n}_places", INIT, (counts[n], c.width)) for n in ("text", "image")}
        self.norms = {n: nn.LayerNorm(epsilon=c.epsilon, dtype=kind) for n in names}
        self.heads = {n: nn.Dense(c.width, use_bias=False, dtype=kind) for n in names}
        self.mask_tokens = {n: self.param(f"{n}_mask", INIT, (d.width,)) for n in names}
        self.filler_places = {n: self.param(f"{n}_filler_places", INIT, (counts[n], d.width)) for n in names}
        self.filler_in, self.filler_out = nn.Dense(d.width, dtype=kind), nn.Dense(c.width, dtype=kind)
        self.filler_norms = {n: nn.LayerNorm(epsilon=d.epsilon, dtype=kind) for n in names}
        self.log_scale = LogScale(1 / o.temperature, 100.0)

    def counts(self) -> dict[str, int]:
        """Tokens of each modality, [CLS] included; of a text it is the first id."""
        image = (self.config.size // int(np.prod(self.config.strides))) ** 2
        sound = self.config.samples // int(np.prod(self.config.sound_strides))
        return {"text": self.config.length, "image": 1 + image, "sound": 1 + sound}

    def __call__(self, batch: Batch) -> Any:
        """For initial parameters: every part once."""
        names = tuple(self.counts())
        states, valid = self.encode(batch, names)
        seen = {n: preserve(valid[n], valid[n].shape[1]) for n in names}
        return self.fill(states, seen, valid), [self.heads[n](states[n]) for n in names], self.log_scale()

    def valid(self, batch: Batch, name: str) -> Bool[Array, "B N"]:
        if name == "text":
            return jnp.asarray(batch["text"]) > 0
        rows, n = len(batch[name]), self.counts()[name]
        if name == "image":
            return jnp.ones((rows, n), bool)
        real = -(-jnp.asarray(batch["sound_length"]) // int(np.prod(self.config.sound_strides)))
        return jnp.arange(n) <= jnp.maximum(real, 1)[:, None]

    def embed(self, batch: Batch, name: str, copies: int, places: Int[Array, "R K"] | None) -> Float[Array, "R K D"]:
        """Adapters: tokens with their positions; of a sound, positions are convolutions over the preserved tokens. `copies` of the batch."""

        def take(x: Array, at: Array | None) -> Array:
            x = jnp.repeat(x, copies, axis=0)
            return x if at is None else jnp.take_along_axis(x, at[..., None], axis=1)

        if name == "text":
            x = self.text_embed(jnp.asarray(batch["text"]))
            return take(x + self.places["text"][: x.shape[1]].astype(self.dtype), places)
        rows, width = len(batch[name]), self.config.transformer.width
        cls = jnp.broadcast_to(self.cls[name].astype(self.dtype), (rows, 1, width))
        if name == "image":
            x = 2.0 * jnp.asarray(batch["image"], self.dtype) - 1.0
            for i, conv in enumerate(self.image_convs):
                x = conv(x)
                x = gelu(self.image_norms[i](x)) if i < len(self.image_norms) else x
            x = jnp.concatenate([cls, x.reshape(rows, -1, width)], axis=1)
            return take(x + self.places["image"].astype(self.dtype), places)
        wave = jnp.asarray(batch["sound"], self.dtype)
        x = jnp.where(jnp.arange(wave.shape[1]) < jnp.asarray(batch["sound_length"])[:, None], wave, 0)[..., None]
        for conv in self.sound_convs:
            x = gelu(conv(x))
        x = take(self.sound_map(self.sound_norm(x)), None if places is None else jnp.maximum(places[:, 1:] - 1, 0))
        at = x
        for conv in self.sound_positions:
            at = conv(at)
            at = gelu((at - at.mean(-1, keepdims=True)) * jax.lax.rsqrt(at.var(-1, keepdims=True) + 1e-5))
        return jnp.concatenate([take(cls + self.sound_cls_position.astype(self.dtype), None), x + at], axis=1)

    def encode(
        self, batch: Batch, names: tuple[str, ...], seen: Mapping[str, Preserved] | None = None,
        together: tuple[bool, ...] = (True,),
    ) -> tuple[dict[str, Float[Array, "R _ D"]], dict[str, Bool[Array, "R _"]]]:  # fmt: skip
        """({modality: normed states}, {modality: which are of tokens}), of as many copies of each row as `together` has entries, side by side.

        Modalities attend to each other where it is True, else each is encoded by itself, in one pass for both.   seen: the tokens that are
        encoded, of all copies (None: all).
        """
        parts, valid, buckets, copies = {}, {}, {}, len(together)
        for name in names:
            places = None if seen is None else seen[name].places
            parts[name] = self.embed(batch, name, copies, places)
            valid[name] = jnp.repeat(self.valid(batch, name), copies, axis=0) if seen is None else seen[name].real
            at = jnp.arange(parts[name].shape[1])[None] if places is None else places
            buckets[name] = jax.vmap(lambda a, pairs=self.pairs[name]: jnp.asarray(pairs)[a][:, a])(at)
        found = self.encoder(parts, valid, buckets, together)
        return {name: self.norms[name](x) for name, x in found.items()}, valid

    def vector(self, states: Float[Array, "B N D"], name: str) -> Float[Array, "B D"]:
        """The unit vector of [CLS]."""
        return l2_normalise(self.heads[name](states[:, 0]).astype(jnp.float32))

    def fill(
        self, states: Mapping[str, Array], seen: Mapping[str, Preserved], valid: Mapping[str, Array],
        together: tuple[bool, ...] = (True,),
    ) -> dict[str, Float[Array, "R _ D"]]:  # fmt: skip
        """The light decoder: features of all places from those of the preserved ones, and mask tokens; `together` as in `encode`."""
        parts = {}
        for name, own in seen.items():
            n = valid[name].shape[1]
            x = self.filler_in(states[name])
            blank = jnp.broadcast_to(self.mask_tokens[name].astype(x.dtype), (n, x.shape[-1]))
            at = jnp.where(own.real, own.places, n)
            put = jax.vmap(lambda at, x, blank=blank: blank.at[at].set(x, mode="drop"))
            parts[name] = put(at, x) + self.filler_places[name][:n].astype(x.dtype)
        found = self.filler(parts, valid, {}, together)
        return {name: self.filler_out(self.filler_norms[name](x)) for name, x in found.items()}
