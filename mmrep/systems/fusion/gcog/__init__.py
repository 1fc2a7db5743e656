"""gCOG's six architectures over an instruction and an image, compared by how they generalise (Ito et al. 2024, arXiv 2401.15030).

Section 2.1, tasks, answers, splits and distractors          mmrep.data.gcog
Section 2.3, RNN and GRU                                     model.Recurrent
Section 2.3, single-stream Transformer, 1 or more blocks     model.SingleStream
Section 2.3, dual-stream Transformer                         model.DualStream
Section 2.3, Transformer with cross-attention                model.CrossAttention
Section 2.3, Perceiver                                       model.Perceiver
Ablation, the image as one averaged key                      kind="averaged"

The authors' dropout of .1 on positions, which acts in training whatever the other settings, is left out, and so is their form with pixels and
words. Instructions are padded on the left, since the answer comes from the last token, EOS.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.nn.config import TransformerConfig
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.fusion.gcog import model

Kind = Literal["cross", "averaged", "dual", "single", "perceiver", "gru", "rnn"]


@dataclass(frozen=True)
class Config:
    """kind:    "cross": the instruction attends to the image.   "averaged": to the mean of its tokens (an ablation).   "dual": both streams are
             added.   "single": one sequence.   "perceiver": latents attend to both in turn.   "gru", "rnn": a word at a time, with the image.
    answers: classes.   vocab: ids of a field of a token, of instruction and image.
    width, heads: of blocks.   blocks: of "single" alone; the others have one a stream.
    ids:     "embed": an embedding table for each field of a token, summed; "raw": a linear map of the ids as numbers (the authors').
    latents: of the Perceiver, learned; "zeros" (the authors') keeps all of them equal, since they are updated alike.
    hide:    "image" or "instruction" is replaced by empty tokens, a control.
    """

    kind: Kind = "cross"
    answers: int = 138
    vocab: int = 29
    width: int = 256
    heads: int = 1
    blocks: int = 1
    ids: Literal["embed", "raw"] = "embed"
    latents: int = 10
    start: Literal["learned", "zeros"] = "learned"
    hide: Literal["", "image", "instruction"] = ""

    def check(self) -> None:
        check_fields(self, {
            "kind": (self.kind in get_args(Kind), f"choose from {', '.join(get_args(Kind))}"),
            "answers": (self.answers > 1, "it must be at least 2"),
            "vocab": (self.vocab > 1, "it must be at least 2"),
            "width": (self.width > 0 and self.width % 2 == 0, "it must be positive and even"),
            "heads": (self.heads > 0 and self.width % self.heads == 0, "it must divide width"),
            "blocks": (self.blocks > 0, "it must be at least 1"),
            "latents": (self.latents > 0, "it must be at least 1"),
            "ids": (self.ids in ("embed", "raw"), "choose embed or raw"),
            "start": (self.start in ("learned", "zeros"), "choose learned or zeros"),
            "hide": (self.hide in ("", "image", "instruction"), "choose image, instruction or neither"),
        })  # fmt: skip
        if self.blocks > 1 and self.kind != "single":
            raise ConfigError(f'system.blocks is {self.blocks}: only kind "single" has more than one')

    def net(self) -> nn.Module:
        shape = TransformerConfig(width=self.width, depth=1, heads=self.heads, norm="post", activation="relu")
        tokens = {"config": shape, "vocab": self.vocab if self.ids == "embed" else 0}
        if self.kind == "cross" or self.kind == "averaged":
            return model.CrossAttention(**tokens, averaged=self.kind == "averaged")
        if self.kind == "single":
            return model.SingleStream(**tokens, blocks=self.blocks)
        if self.kind == "dual":
            return model.DualStream(**tokens)
        if self.kind == "perceiver":
            return model.Perceiver(**tokens, latents=self.latents, learned=self.start == "learned")
        return model.Recurrent(**tokens, gated=self.kind == "gru")

    def chance_loss(self, batch_size: int) -> float:
        """The cross-entropy of equal answers."""
        return float(jnp.log(self.answers))

    def table_sizes(self) -> dict[str, int]:
        """Ids that it can take of modalities that no part of it is named after."""
        return {"instruction": self.vocab, "image": self.vocab, "answer": self.answers}

    def build(self) -> System:
        self.check()
        net, head = self.net(), nn.Dense(self.answers)

        def shown(batch: Batch) -> tuple[Array, Array]:
            instruction, image = (jnp.asarray(batch[n]) for n in ("instruction", "image"))
            if self.hide == "image":
                image = image.at[:, :-1].set(0)
            if self.hide == "instruction":
                instruction = instruction.at[:, :-1].set(0)
            return instruction, image

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            params = net.init(rng, *shown(batch))["params"]
            return {"net": params, "out": head.init(rng, jnp.zeros((1, self.width)))["params"]}, {}

        def fused(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
            return net.apply({"params": params["net"]}, *shown(batch))

        def logits(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B A"]:
            return head.apply({"params": params["out"]}, fused(params, extras, batch))

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            found, truth = logits(params, {}, batch), jnp.asarray(batch["answer"])
            value = optax.softmax_cross_entropy_with_integer_labels(found, truth).mean()
            return value, {"accuracy": (found.argmax(-1) == truth).mean(dtype=jnp.float32)}

        return System(init, stateless(loss), {"fused": fused, "logits": logits})
