"""A head on the encoder of an experiment, in one call, and the pretrained parameters that it starts from."""

from typing import Any, Literal

import jax

from mmrep import modality
from mmrep.config import Experiment
from mmrep.errors import ConfigError, near
from mmrep.modality import Modality
from mmrep.systems.recipes.finetune import Config
from mmrep.systems.recipes.finetune.dpt import Dpt
from mmrep.systems.recipes.finetune.heads import ConvNeXt, Linear, Mlp
from mmrep.systems.recipes.finetune.model import used


def pretrained_parts(config: Config, absent: tuple[str, ...] = ()) -> tuple[tuple[str, str], ...]:
    """`Pretrained.parts` for the encoder of another experiment.   absent: top-level names that it does not have; they start fresh."""
    system, batch = config.encoder.build(), modality.example(config.modalities, 1)
    given = {k: v for k, v in batch.items() if k.removesuffix("_length") in config.inputs}
    params, extras = jax.eval_shape(system.init, jax.random.key(0), batch)
    params, extras = used(system.infer[config.features], params, extras, given)
    moved = [(f"{k}/", f"encoder/{k}/") for k in params if k not in absent]
    return (*moved, *((f"extras/{k}/", f"extras/encoder/{k}/") for k in extras))


def over(
    experiment: Experiment,
    target: Modality,
    head: Literal["linear", "mlp", "dense"] | Linear | Mlp | ConvNeXt | Dpt = "linear",
    *,
    features: str = "",
    inputs: tuple[str, ...] = (),
    **adapters: Any,
) -> Config:
    """A head on the encoder of `experiment`.

    inputs:   of the encoder; its first image (or, without one, its first modality) unless given.
    features: the embedding of the first input for linear and mlp, its tokens for dense heads, unless given.
    adapters: fields of Config: lora_rank, lora_pattern, lora_scale, prompts, prompt_depth.
    Raises ConfigError where the system has no such function.
    """
    system = experiment.phases[-1].system or experiment.system
    modalities, known = experiment.data.modalities, system.build().infer
    if not inputs:
        images = [m.name for m in modalities if m.kind == "image" and m.name != target.name]
        inputs = tuple((images or [m.name for m in modalities])[:1])
    heads: dict[Any, Any] = {"linear": Linear(), "mlp": Mlp(), "dense": ConvNeXt() if target.kind == "map" else Dpt()}
    if isinstance(head, str) and head not in heads:
        raise ConfigError(f"head is {head!r}{near(head, heads)}")
    chosen = heads[head] if isinstance(head, str) else head
    suffix = {ConvNeXt: "_tokens", Dpt: "_token_layers"}.get(type(chosen), "")
    for name in [features] if features else [f"{inputs[0]}{suffix}", f"fused{suffix}"]:
        if name in known:
            return Config(system, modalities, name, inputs, target, chosen, **adapters)
    raise ConfigError(f"no infer function for a {head} head on {inputs[0]!r}; there are {', '.join(sorted(known))}")
