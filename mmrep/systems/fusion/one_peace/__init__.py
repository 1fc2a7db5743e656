"""ONE-PEACE: one attention and a feed-forward network a modality, extended modality by modality (Wang et al. 2023, arXiv 2305.11172).

Section 3.1, adapters of text, image and sound                       model.OnePeace.embed
Section 3.1, relative position bias of each layer and modality       mmrep.nn.positions.with_cls, blocks.MultiwayBlock
Section 3.1, shared attention, GeGLU FFN a modality, layer scale     blocks.MultiwayBlock, blocks.FFN
Section 3.2, equation 5, aligning contrast                           losses.itc_loss
Section 3.2, equation 6, denoising contrast against its own teacher  losses.dcl_loss
Section 3.2, masked encoding and the light decoder                   mmrep.masking.tokens.leave_out, model.OnePeace.fill
Section 3.3, stage of images and text                                stage="image"
Section 3.3, stage of sounds and text, the rest frozen               stage="sound", SOUND

Drop path, overlapping convolutions of sounds, and fine-tuning with fusion of several modalities, are left out. The authors clamp the logarithm of the scale to [0, ln 100].
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.masking.tokens import leave_out, preserve
from mmrep.nn.config import TransformerConfig
from mmrep.system import Batch, Extras, Infer, Metrics, Params, System, stateless
from mmrep.systems.fusion.one_peace import losses
from mmrep.systems.fusion.one_peace.model import OnePeace

STAGES = ("image", "sound")
SOUND = (
    "net/.*sound.*", "net/filler_(in|out)/.*", "net/filler/blocks/(attn|norm_attn|norm_ffn|text_ffn)/.*",
    "net/filler/blocks/gamma.", "net/(filler_norms_text/.*|text_filler_places|text_mask)",
)  # fmt: skip
"""What the stage of sounds trains: paths for `Phase.trainable`."""


@dataclass(frozen=True)
class Config:
    """The batch: text, image and sound; a stage uses text and one of the others.

    vocab, length: of texts.   size, strides: of square images, and of the stem's convolutions.   samples, sound_strides: of sounds.
    buckets:   of relative positions of texts and sounds.   convs, kernel, groups: of the convolutions that place a sound's tokens.
    stage:     "image" or "sound".   layer_scale: initial scale of each branch (the authors' is 1e-6, with which small models learn slowly).
    ratios:    masked share of (text alone, the other alone, text in a pair, the other in a pair), in (0, 1).   span: masked tokens of a sound in a run.
    weights:   of their denoising contrasts.   dcl_scale, smoothing: of these.   parts: of the batch, each with negatives of its own.
    """

    transformer: TransformerConfig = TransformerConfig(depth=3, sub_norm=True)
    decoder: TransformerConfig = TransformerConfig(depth=2, sub_norm=True)
    vocab: int = 64
    length: int = 16
    size: int = 32
    strides: tuple[int, ...] = (4,)
    samples: int = 4096
    sound_strides: tuple[int, ...] = (8, 8)
    buckets: int = 32
    convs: int = 2
    kernel: int = 3
    groups: int = 1
    stage: str = "image"
    layer_scale: float = 0.1
    ratios: tuple[float, float, float, float] = (0.15, 0.75, 0.4, 0.6875)
    span: int = 1
    weights: tuple[float, float, float, float] = (0.5, 1.0, 0.5, 0.5)
    dcl_scale: float = 2.5
    smoothing: float = 0.1
    parts: int = 1
    temperature: float = 0.07
    dtype: str = "float32"

    def check(self) -> None:
        sound, patch = int(np.prod(self.sound_strides)), int(np.prod(self.strides))
        check_fields(self, {
            "stage": (self.stage in STAGES, "choose image or sound"),
            "strides": (bool(self.strides) and patch > 0 and self.size % patch == 0, "their product must divide size"),
            "sound_strides": (sound > 0 and self.samples % sound == 0, "their product must divide samples"),
            "samples": (min(self.samples, self.buckets, self.kernel, self.groups) >= 1, "samples, buckets, kernel and groups must be positive"),
            "length": (self.length >= 3, "it must be at least 3"),
            "ratios": (all(0 < r < 1 for r in self.ratios) and len(self.ratios) == 4, "give four numbers in (0, 1)"),
            "weights": (min(self.weights) >= 0 and len(self.weights) == 4, "give four numbers of 0 or more"),
            "smoothing": (0 <= self.smoothing < 1, "it must be in [0, 1)"),
            "span": (min(self.span, self.parts) >= 1, "span and parts must be at least 1"),
            "temperature": (self.temperature > 0.01, "it must be above 0.01, where the scale is capped"),
        })  # fmt: skip

    def build(self) -> System:
        self.check()
        net = OnePeace(self)
        infer: dict[str, Infer] = {}
        for name in ("text", "image", "sound"):
            infer |= {name: partial(vector, net, name), f"{name}_tokens": partial(tokens, net, name)}
        infer |= {"joint_image": partial(joint_image, net), "completed": partial(completed, net)}
        return System(partial(init, net), stateless(partial(one_peace_loss, self, net)), infer)


def init(net: OnePeace, rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
    return {"net": net.init(rng, {k: jnp.asarray(v) for k, v in batch.items()})["params"]}, {}


def one_peace_loss(
    config: Config, net: OnePeace, params: Params, batch: Batch, rng: PRNGKeyArray
) -> tuple[Float[Array, ""], Metrics]:
    """L_ITC and the denoising contrasts of text and the other modality, alone and as a pair.

    The pass without masks serves both: its [CLS] vectors with gradients, its tokens as the teacher without. A sound alone has the pair's teacher.
    """
    c, names = config, ("text", config.stage)
    use = partial(net.apply, {"params": params["net"]})
    together = (False, True) if any(c.weights[2:]) or c.stage == "sound" else (False,)
    teacher, valid = use(batch, names, together=together, method=OnePeace.encode)
    copies = len(together)

    def copy(x: Array, k: int) -> Array:
        # Copies are side by side so that on a mesh they stay on their row's device.
        return x.reshape(-1, copies, *x.shape[1:])[:, k]

    x, y = (use(copy(teacher[n], 0), n, method=OnePeace.vector) for n in names)
    scale = use(method=lambda m: m.log_scale())
    metrics: Metrics = {"itc": losses.itc_loss(x, y, scale), "scale": scale}
    total = metrics["itc"]
    if not any(c.weights):
        return total, metrics
    masked, seen = {}, {}
    for i, name in enumerate(names):
        ratios, real, n = c.ratios[i::2][:copies], copy(valid[name], 0), valid[name].shape[1]
        span = c.span if name == "sound" else 1
        drawn = [leave_out(jax.random.fold_in(rng, 2 * k + i), real, r, span) for k, r in enumerate(ratios)]
        masked[name] = jnp.stack(drawn, axis=1).reshape(-1, n)
        seen[name] = preserve(valid[name] & ~masked[name], n - round(min(ratios) * (n - 1)))
    states, _ = use(batch, names, seen, together, method=OnePeace.encode)
    students = use(states, seen, valid, together, method=OnePeace.fill)
    for k, what in enumerate(("", "pair_")[: len(together)]):
        for i, name in enumerate(names):
            if weight := c.weights[2 * k + i]:
                truth = copy(teacher[name], copies - 1 if name == "sound" else k)
                loss = losses.dcl_loss(
                    copy(students[name], k), truth, copy(masked[name], k), copy(valid[name], k), scale=c.dcl_scale, smoothing=c.smoothing,
                    most=round(c.ratios[2 * k + i] * (valid[name].shape[1] - 1)), groups=c.parts,
                )  # fmt: skip
                metrics[f"dcl_{what}{name}"] = loss
                total += weight * loss
    return total, metrics


def vector(net: OnePeace, name: str, params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
    states, _ = tokens(net, name, params, extras, batch)
    return net.apply({"params": params["net"]}, states, name, method=OnePeace.vector)


def tokens(net: OnePeace, name: str, params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
    """States of all tokens, [CLS] included."""
    states, valid = net.apply({"params": params["net"]}, batch, (name,), method=OnePeace.encode)
    return states[name].astype(jnp.float32), valid[name]


def joint_image(net: OnePeace, params: Params, extras: Extras, batch: Batch) -> Float[Array, "B N D"]:
    """The teacher's features of image tokens beside their caption, without [CLS]."""
    states, _ = net.apply({"params": params["net"]}, batch, ("text", "image"), method=OnePeace.encode)
    return states["image"][:, 1:].astype(jnp.float32)


def completed(net: OnePeace, params: Params, extras: Extras, batch: Batch) -> Float[Array, "B N D"]:
    """The student's feature of each image token, hidden with every second one, beside the whole caption."""
    use, names, both = partial(net.apply, {"params": params["net"]}), ("text", "image"), (True, True)
    valid = {n: jnp.repeat(use(batch, n, method=OnePeace.valid), 2, axis=0) for n in names}
    n = valid["image"].shape[1]
    odd = jnp.arange(n) % 2 == 1
    hidden = jnp.tile(jnp.stack([odd, ~odd & (jnp.arange(n) > 0)]), (len(batch["text"]), 1))
    seen = {"text": preserve(valid["text"], valid["text"].shape[1]), "image": preserve(~hidden, 1 + n // 2)}
    states, _ = use(batch, names, seen, both, method=OnePeace.encode)
    found = use(states, seen, valid, both, method=OnePeace.fill)["image"].astype(jnp.float32)
    return jnp.where(odd[:, None], found[::2], found[1::2])[:, 1:]
