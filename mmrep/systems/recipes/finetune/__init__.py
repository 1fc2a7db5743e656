"""Fine-tuning and probing: a new head on the encoder of any other system, for a label, a class map, or numbers for every pixel.

    config = start.over(experiment, modality.label("n_objects", 9), head="linear")
    begin = (Pretrained(experiment, start.pretrained_parts(config)),)
    Phase(trainable=HEAD_ONLY, start=begin)                         # probing: the encoder is frozen
    Phase(start=begin), Optim(layer_decay=0.75)                     # fine-tuning
    Phase(trainable=learnt(config), start=begin)                    # adapters (`lora_rank`), learnt prompts

linear, mlp         LayerNorm, then a linear layer or an MLP              heads.VectorHead
dense, for classes  Bachmann et al. 2022 (MultiMAE), section 4.1          heads.ConvNeXtHead
dense, for numbers  Ranftl et al. 2021 (DPT, arXiv 2103.13413)            dpt.DPTHead
losses              cross-entropy, of labels or of pixels                 model.classification_loss, segmentation_loss
                    reversed Huber, Laina et al. 2016 (arXiv 1606.00373)  model.berhu

The encoder runs as at inference. With stochastic depth (`drop_path` in its TransformerConfig) its batch holds a key "rng" in training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep import modality
from mmrep.errors import ConfigError, near
from mmrep.losses import masked
from mmrep.losses.reduce import masked_mean
from mmrep.modality import Modality
from mmrep.nn import lora
from mmrep.nn import prompts as learnt_prompts
from mmrep.nn.maps import DenseModality, dense
from mmrep.system import Batch, Extras, Metrics, Params, System
from mmrep.systems.recipes.finetune.dpt import Dpt, DPTHead
from mmrep.systems.recipes.finetune.heads import ConvNeXt, ConvNeXtHead, Linear, Mlp, VectorHead
from mmrep.systems.recipes.finetune.model import berhu, classification_loss, segmentation_loss, used

HEAD_ONLY = ("head/.*",)
"""`Phase.trainable` of a probe."""


def learnt(config: "Config") -> tuple[str, ...]:
    """`Phase.trainable` with a frozen encoder: the head, and the adapters and prompts where there are some."""
    return (*HEAD_ONLY, *["lora/.*"] * (config.lora_rank > 0), *["prompts/.*"] * (config.prompts > 0))


@dataclass(frozen=True)
class Config:
    """encoder, modalities: another system's config, and the modalities of its data; of its parameters only those that `features` needs are kept.

    features:  its infer function whose result the head takes: "<modality>" or "fused" [B, D], "<modality>_tokens" (tokens [B, N, D], valid
               [B, N]), or for DPT "<modality>_token_layers" {layer: [B, N, D]}.
    inputs:    batch entries that go into the encoder, in the order of its tokens. Some may be absent from a batch.
    target:    what is predicted: a label, a class map, or numbers [H, W, C], and never one of `inputs`.
    head:      Linear or Mlp for labels, ConvNeXt for class maps, Dpt for numbers.
    read:      inputs whose tokens a dense head takes, side by side as channels; the first unless given. All inputs have one grid of patches.
    truncated: numbers are standardised by each example's middle 80 % of values, not by the target's mean and std (depth).
    loss:      of numbers.
    lora_rank: of the encoder's adapters (mmrep.nn.lora), in params["lora"]; 0: none. `lora_pattern`: paths of its Dense layers, from
               "encoder/" on. `lora_scale`: alpha / rank.
    prompts:   learnt vectors before the tokens of each of the encoder's Transformers (mmrep.nn.prompts); `prompt_depth` blocks have their own.
    """

    encoder: Any
    modalities: tuple[Modality, ...]
    features: str
    inputs: tuple[str, ...]
    target: Modality
    head: Linear | Mlp | ConvNeXt | Dpt = Linear()
    read: tuple[str, ...] = ()
    truncated: bool = False
    loss: Literal["berhu", "l1"] = "berhu"
    dtype: str = "float32"
    lora_rank: int = 0
    lora_pattern: str = ".*attn/(query|value)"
    lora_scale: float = 1.0
    prompts: int = 0
    prompt_depth: int = 1

    @property
    def task(self) -> str:
        return {"label": "classification", "map": "segmentation", "image": "regression"}.get(self.target.kind, "")

    @property
    def map(self) -> DenseModality:
        return dense(self.target, truncated=self.truncated)

    @property
    def grid(self) -> tuple[int, int]:
        return next(m.grid for m in self.modalities if m.name == self.inputs[0])

    def check(self) -> None:
        names = [m.name for m in self.modalities]
        if not self.inputs or not {*self.inputs} <= {*names}:
            raise ConfigError(f"system.inputs is {self.inputs}: choose from {', '.join(names)}")
        if not {*self.read} <= {*self.inputs}:
            raise ConfigError(f"system.read is {self.read}: choose from system.inputs {', '.join(self.inputs)}")
        if self.target.name in self.inputs:
            raise ConfigError(f"system.target {self.target.name!r} is also an input: leave it out of system.inputs")
        heads = {"classification": (Linear, Mlp), "segmentation": (ConvNeXt,), "regression": (Dpt,)}.get(self.task)
        if heads is None:
            raise ConfigError(f"system.target has kind {self.target.kind!r}: give a label, a map or an image")
        if not isinstance(self.head, heads):
            raise ConfigError(f"system.head is {self.head}: {self.task} needs {' or '.join(h.__name__ for h in heads)}")

    def build(self) -> System:
        self.check()
        encoder, head = self.encoder.build(), self._head()
        if self.features not in encoder.infer:
            raise ConfigError(f"system.features is {self.features!r}{near(self.features, encoder.infer)}")
        features = encoder.infer[self.features]

        def given(batch: Batch, rng: PRNGKeyArray | None = None) -> Batch:
            """The encoder's part of a batch: never the target."""
            here = {k: v for k, v in batch.items() if k.removesuffix("_length") in self.inputs}
            return here | ({} if rng is None else {"rng": rng})

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            for_encoder, for_head = jax.random.split(rng)
            params, extras = encoder.init(for_encoder, modality.example(self.modalities, 1) | given(batch))
            params, extras = used(features, params, extras, given(batch))
            x = jax.eval_shape(lambda p, e: head_input(self, features(p, e, given(batch)), batch), params, extras)
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), x)
            made, key = {"encoder": params, "head": head.init(for_head, zeros)["params"]}, jax.random.fold_in(rng, 1)
            if self.lora_rank:
                made["lora"] = lora.init(key, {"encoder": params}, self.lora_pattern, self.lora_rank)
            if self.prompts:
                run = lambda: features(params, extras, given(batch))  # noqa: E731
                made["prompts"] = learnt_prompts.init(key, run, self.prompts, self.prompt_depth)
            return made, {"encoder": extras}

        def encoded(params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray | None = None) -> Any:
            """The features, by adapters and prompts where there are some."""
            here = lora.merge({"encoder": params["encoder"]}, params.get("lora", {}), self.lora_scale)
            with learnt_prompts.prompted(params.get("prompts", {})):
                return features(here["encoder"], extras["encoder"], given(batch, rng))

        def output(params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray | None = None) -> Array:
            found = encoded(params, extras, batch, rng)
            return head.apply({"params": params["head"]}, head_input(self, found, batch))  # type: ignore[return-value]

        def loss(
            params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
        ) -> tuple[Array, tuple[Extras, Metrics]]:
            value, metrics = head_loss(self, output(params, extras, batch, rng), jnp.asarray(batch[self.target.name]))
            return value, (extras, metrics)

        def predict(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B *n"]:
            """Logits of classes [B, C] or [B, H, W, C]; numbers [B, H, W, C] in the batch's units (standardised where `truncated`)."""
            found = output(params, extras, batch)
            if self.task != "regression" or self.truncated:
                return found
            return found * jnp.asarray(self.map.std, jnp.float32) + jnp.asarray(self.map.mean, jnp.float32)

        return System(init, loss, {"predict": predict, self.features: encoded})

    def _head(self) -> Any:
        dtype = jnp.dtype(self.dtype)
        if isinstance(self.head, Linear | Mlp):
            return VectorHead(self.head, self.target.classes, dtype)
        kind: Any = ConvNeXtHead if isinstance(self.head, ConvNeXt) else DPTHead
        return kind(self.head, self.map.classes or self.map.channels, self.grid, self.map.size, dtype)


def head_loss(config: Config, found: Array, truth: Array) -> tuple[Float[Array, ""], Metrics]:
    """The task's loss of the head's output, and one metric."""
    if config.task == "regression":
        error = found - config.map.standard(truth)
        l1 = jnp.abs(error).mean()
        return berhu(error) if config.loss == "berhu" else l1, {"l1": l1}
    right = found.argmax(-1) == truth
    if config.task == "segmentation":
        return segmentation_loss(found, truth), {"pixel_accuracy": masked_mean(right, truth != masked.IGNORE)}
    return classification_loss(found, truth), {"accuracy": masked_mean(right)}


def head_input(config: Config, found: Any, batch: Mapping[str, Any]) -> Any:
    """What the head takes of the features: one vector [B, D], the tokens of the inputs that it reads, or four layers of them."""
    if isinstance(config.head, Linear | Mlp):
        if isinstance(found, tuple):
            tokens, valid = found
            return masked_mean(tokens, valid[..., None], axis=1)
        return found
    here = [k for k in config.inputs if k in batch]
    wanted = config.read or config.inputs[:1]
    if not {*wanted} <= {*here}:
        raise ConfigError(f"the batch has {', '.join(here)}: the head needs {', '.join(wanted)}")
    n = config.grid[0] * config.grid[1]

    def cut(tokens: Float[Array, "B N D"]) -> Float[Array, "B M E"]:
        return jnp.concatenate([tokens[:, (i := here.index(k) * n) : i + n] for k in wanted], axis=-1)

    if isinstance(config.head, ConvNeXt):
        return cut(found[0])
    layers = [found[name] for name in sorted(found)]
    if not all(0 <= i < len(layers) for i in config.head.hooks):
        raise ConfigError(f"system.head.hooks is {config.head.hooks}: choose from {len(layers)} layers, counted from 0")
    return [cut(layers[i]) for i in config.head.hooks]
