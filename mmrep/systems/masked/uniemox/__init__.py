"""UniEmoX: pictures of emotions, scene and person, masked and taught by CLIP's similarities (Chen et al. 2024, arXiv 2409.18877).

Section III-A, scene and person of one masked autoencoder        Config.image, Config.decoder, model.mae_loss
Section III-B, fusion of both class tokens                       model.AttentionFusion
Section III-C, semantics of paired texts (reconstructed)         model.alignment_loss
Section III-C, similarities to unpaired texts (reconstructed)    model.structure_loss
Person crops of a detector's boxes                               data.Cropped

As in the authors' code the person is encoded under its own mask and is not reconstructed. Their code resizes the whole scene where it means
the crop; here the crop is used. Of their five fusions only attention is here. Fine-tuning is `mmrep.finetune`.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.masking import budgets
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Embedder, Encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.nn.mae import MaeDecoder
from mmrep.nn.patches import patchify
from mmrep.system import Batch, Metrics, Params, System, stateless
from mmrep.systems.masked.uniemox.model import AttentionFusion, alignment_loss, mae_loss, structure_loss


@dataclass(frozen=True)
class Config:
    """A batch has `scene`, `person`, a crop of the scene, and `text`.

    image:     the masked autoencoder's encoder, with a class token and fixed positions.   dim: of the teacher's space.
    mask:      share of patches that are hidden.   decoder: of the scene's patches.
    teacher_image, teacher_text: of the frozen teacher, parameters "teacher/image" and "teacher/text", see Phase.start; they encode the whole
               scene and `text`. None: the batch has the teacher's stored vectors, `sight` and `text` [B, dim].
    person:    encode the person, too (False is an ablation: the scene alone).
    mae, alignment, structure: weights of the losses; 0 leaves one out.   temperature: of the structure.
    shuffled:  the teacher's similarities are those to other records' texts (a control).
    """

    image: ImageEncoder = ImageEncoder(pool="cls", positions="sincos2d")
    decoder: TransformerConfig = TransformerConfig(width=32, depth=1, heads=2)
    dim: int = 64
    mask: float = 0.9
    teacher_image: Encoder | None = None
    teacher_text: Encoder | None = None
    person: bool = True
    mae: float = 1.0
    alignment: float = 1.0
    structure: float = 1.0
    temperature: float = 0.07
    shuffled: bool = False
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "image": (self.image.pool == "cls" and not self.image.registers, 'its pool must be "cls", without registers'),
            "dim": (self.dim >= 1, "give at least 1"),
            "mask": (0 <= self.mask < 1, "it must be in [0, 1)"),
            "mae": (min(self.mae, self.alignment, self.structure) >= 0, "weights of losses are at least 0"),
            "temperature": (0 < self.temperature < math.inf, "it must be positive and finite"),
        })  # fmt: skip
        if (self.teacher_image is None) != (self.teacher_text is None):
            raise ConfigError("system.teacher_image and teacher_text: give both, or neither for stored vectors")
        if not self.mae + self.alignment + self.structure:
            raise ConfigError("system.mae, alignment and structure are all 0: give one of the losses a weight")

    def build(self) -> System:
        self.check()
        kind = jnp.dtype(self.dtype)
        vit, project, fusion = self.image.module(kind), nn.Dense(self.dim, dtype=kind), AttentionFusion(kind)
        taught, views = bool(self.alignment or self.structure), ("scene", "person") if self.person else ("scene",)
        teachers = {}
        if self.teacher_image is not None and self.teacher_text is not None:
            teachers = {
                "image": Embedder(self.teacher_image, self.dim, dtype=kind),
                "text": Embedder(self.teacher_text, self.dim, dtype=kind),
            }

        def decoder(patch_values: int) -> MaeDecoder:
            return MaeDecoder(self.decoder, patch_values, kind)

        def drawn(rng: PRNGKeyArray, x: Array) -> tuple[budgets.Visible, tuple[int, int]]:
            """The patches of each picture that are visible, and the grid."""
            grid = x.shape[1] // self.image.patch, x.shape[2] // self.image.patch
            count = max(1, round((1 - self.mask) * grid[0] * grid[1]))
            return budgets.random_masking(rng, jnp.ones((len(x), 1)), (grid[0] * grid[1],), count), grid

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            keys, x = jax.random.split(rng, 6), jnp.asarray(batch["scene"])
            seen, grid = drawn(keys[0], x)
            params = {"encoder": vit.init(keys[1], x)["params"]}
            cls, out = vit.apply({"params": params["encoder"]}, x, seen.ids_keep)
            if self.mae:
                module = decoder(self.image.patch**2 * x.shape[-1])
                params["decoder"] = module.init(keys[2], out["patches"], *seen, grid)["params"]
            if taught:
                params["project"] = project.init(keys[3], cls)["params"]
                if self.person:
                    params["fusion"] = fusion.init(keys[4], jnp.zeros((1, 2, self.dim), kind))["params"]
                if teachers:
                    of = {"image": x, "text": batch["text"]}
                    params["teacher"] = {
                        n: m.init(jax.random.fold_in(keys[5], i), of[n])["params"]
                        for i, (n, m) in enumerate(teachers.items())
                    }
            return params, {}

        def encode(params: Params, x: Array, seen: Array | None = None) -> tuple[Array, dict[str, Array]]:
            return vit.apply({"params": params["encoder"]}, x, seen)

        def fuse(params: Params, classes: list[Array]) -> Float[Array, "B D"]:
            parts = jnp.stack([project.apply({"params": params["project"]}, c) for c in classes], 1)
            return (fusion.apply({"params": params["fusion"]}, parts) if len(classes) == 2 else parts[:, 0]).astype(
                jnp.float32
            )

        def teacher(params: Params, batch: Batch, name: str) -> Float[Array, "B D"]:
            if not teachers:
                return jnp.asarray(batch["sight" if name == "image" else "text"])
            x = batch["scene" if name == "image" else "text"]
            return jax.lax.stop_gradient(teachers[name].apply({"params": params["teacher"][name]}, x)[0])

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            keys, classes, metrics = jax.random.split(rng, 3), [], {}
            for i, view in enumerate(views):
                x = jnp.asarray(batch[view])
                seen, grid = drawn(keys[i], x)
                cls, out = encode(params, x, seen.ids_keep)
                classes.append(cls)
                if view == "scene" and self.mae:
                    patches = patchify(x, self.image.patch)
                    found = decoder(patches.shape[-1]).apply({"params": params["decoder"]}, out["patches"], *seen, grid)
                    metrics["mae"] = mae_loss(found, patches, ~seen.mask).mean()
            total = self.mae * metrics.get("mae", jnp.zeros(()))
            if taught:
                f, g, t = fuse(params, classes), teacher(params, batch, "image"), teacher(params, batch, "text")
                others = t[jax.random.permutation(keys[2], len(t))] if self.shuffled else None
                metrics["alignment"] = alignment_loss(f, g).mean()
                metrics["structure"] = structure_loss(f, g, t, self.temperature, others).mean()
                total += self.alignment * metrics["alignment"] + self.structure * metrics["structure"]
            return total, metrics

        def features(params: Params, extras: dict, batch: Batch) -> Float[Array, "B E"]:
            """Class tokens and mean patches of the whole pictures, side by side."""
            found = [encode(params, jnp.asarray(batch[v])) for v in views]
            return jnp.concatenate([x for cls, out in found for x in (cls, out["patches"].mean(1))], 1).astype(
                jnp.float32
            )

        infer: dict[str, Any] = {"features": features}
        if taught:
            infer["fused"] = lambda params, extras, batch: l2_normalise(
                fuse(params, [encode(params, jnp.asarray(batch[v]))[0] for v in views])
            )
            for v in views:
                infer[v] = lambda params, extras, batch, v=v: l2_normalise(
                    fuse(params, [encode(params, jnp.asarray(batch[v]))[0]])
                )
            infer["text"] = lambda params, extras, batch: l2_normalise(teacher(params, batch, "text"))
        return System(init, stateless(loss), infer)
