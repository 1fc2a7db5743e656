"""PLIP's network: two encoders, and a fusion encoder each for colours and for attributes (Zuo et al. 2024, section 3.2)."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.nn.dual import DualEncoder, dual_encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.fusion import FusionEncoder
from mmrep.nn.heads import MaskedLmHead
from mmrep.nn.patches import unpatchify
from mmrep.system import Batch, Extras, Params
from mmrep.systems.contrastive.plip.losses import grey


class Plip(NamedTuple):
    """Parameters: {"image", "text"}, with TIC {"colour", "pixels"}, with IAP {"attribute", "words"}."""

    image: ImageEncoder
    text: TextEncoder
    dim: int
    depth: int
    dtype: str

    @property
    def dual(self) -> DualEncoder:
        return dual_encoder({"image": self.image, "text": self.text}, self.dim, normalise=False, dtype=self.dtype)

    @property
    def colour(self) -> FusionEncoder:
        return FusionEncoder(replace(self.image.transformer, depth=self.depth), dtype=jnp.dtype(self.dtype))

    @property
    def attribute(self) -> FusionEncoder:
        return FusionEncoder(replace(self.text.transformer, depth=self.depth), dtype=jnp.dtype(self.dtype))

    @property
    def pixels(self) -> nn.Dense:
        return nn.Dense(3 * self.image.patch**2)

    @property
    def head(self) -> MaskedLmHead:
        return MaskedLmHead(dtype=jnp.dtype(self.dtype))

    def init(self, rng: PRNGKeyArray, batch: Batch, *, colour: bool, attribute: bool) -> Params:
        params = self.dual.init(rng, batch)
        del params["scale"]
        keys = jax.random.split(jax.random.fold_in(rng, 1), 4)
        (_, seen), (_, told) = (self.dual.full(params, batch, name) for name in ("image", "text"))
        patches, tokens, valid = seen["patches"], told["tokens"], told["valid"]
        if colour:
            params["colour"] = self.colour.init(keys[0], patches, tokens, None, valid)["params"]
            params["pixels"] = self.pixels.init(keys[1], patches.astype(jnp.float32))["params"]
        if attribute:
            table = params["text"]["encoder"]["embed"]["embedding"]
            params["attribute"] = self.attribute.init(keys[2], tokens, patches, valid)["params"]
            params["words"] = self.head.init(keys[3], tokens, table)["params"]
        return params

    def colour_patches(self, params: Params, images: Array, told: dict[str, Array]) -> Float[Array, "B N P"]:
        """Pixels of the patches of the grey pictures, coloured from the text's tokens."""
        _, seen = self.dual.full(params, {"image": grey(jnp.asarray(images))}, "image")
        fusion = {"params": params["colour"]}
        out = self.colour.apply(fusion, seen["patches"], told["tokens"], None, told["valid"])[1]
        return self.pixels.apply({"params": params["pixels"]}, out["tokens"].astype(jnp.float32))

    def word_logits(
        self, params: Params, ids: Int[Array, "B L"], patches: Float[Array, "B N W"]
    ) -> Float[Array, "B L V"]:
        """Logits of the tokens of masked attributes, which attend to the picture's patches."""
        out = self.dual.full(params, {"text": ids}, "text")[1]
        tokens = self.attribute.apply({"params": params["attribute"]}, out["tokens"], patches, out["valid"])[1][
            "tokens"
        ]
        table = params["text"]["encoder"]["embed"]["embedding"]
        return self.head.apply({"params": params["words"]}, tokens, table)

    def colours(self, params: Params, extras: Extras, batch: Batch) -> Float[Array, "B H W 3"]:
        """The grey versions of `image`, coloured by `text`; in [0, 1] but for the model's errors."""
        told = self.dual.full(params, batch, "text")[1]
        side = self.image.patch
        grid = batch["image"].shape[1] // side, batch["image"].shape[2] // side
        return unpatchify(self.colour_patches(params, batch["image"], told), side, grid)

    def words(self, params: Params, extras: Extras, batch: Batch) -> Float[Array, "B L V"]:
        """Logits of the tokens of `attributes`, MASK among them, given `image`."""
        return self.word_logits(params, batch["attributes"], self.dual.full(params, batch, "image")[1]["patches"])
