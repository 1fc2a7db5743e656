"""Uni-Perceiver: every task is a choice among encoded candidates, with one shared Transformer (Zhu et al. 2022, arXiv 2112.01522).

Section 3.1, tokenizers of texts and images, token <SPE>        model.Unified.text, Unified.image
Section 3.1, unified encoder of inputs and targets              model.Unified.encode
Section 3.1, p(x, y) by cosine similarity and temperature       model.choose
Section 3.2, classification: images and the texts of names      Config.build, task "names"
Section 3.2, masked words: words as texts of one word           model.candidates, task "masked"
Section 3.2, captioning: words in parallel, by copies of <SPE>  model.caption_mask, task "caption"
Section 3.2, retrieval                                          task "retrieve"
Section 3.3, prompt tuning                                      Config.prompts, the config's variant prompt
Baseline: a linear head for each task                           heads=True

Videos, the memory queue of retrieval, mixup and layer scale are left out; each step takes all tasks on one batch, where the authors draw a task.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.losses.reduce import masked_mean
from mmrep.modality import BOS, EOS, FIRST_PIECE, PAD
from mmrep.nn import prompts
from mmrep.nn.config import TransformerConfig
from mmrep.nn.heads import LogScale
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.fusion.uni_perceiver import model
from mmrep.systems.fusion.uni_perceiver.model import Heads, Unified

TASKS = ("names", "masked", "caption", "retrieve")


@dataclass(frozen=True)
class Config:
    """The batch: image, text, label (the number of the image's name) and names (texts, the same group in every record).

    size, patch: of square images.   vocab, length: of texts and names.
    classes:   number of names.   tasks: (task, weight) of "names", "masked", "caption" and "retrieve".
    unseen:    numbers of names that classification never uses: neither their images nor the names as candidates.
    sampled:   words that are candidates in a step: those of the batch, and others at random; 0: all of the vocabulary.
    masked:    share of words that are replaced by <SPE>, in (0, 1).   smoothing: of the labels of names and retrieval, in [0, 1).
    shared:    False encodes texts of targets by a Transformer of their own (an ablation).
    heads:     linear layers for names and words take the place of encoded candidates (a baseline).
    peek:      captioning lets each copy of <SPE> attend to the word it predicts (an ablation).
    prompts:   vectors in front of each of the first `prompt_depth` blocks; 0: none.
    """

    transformer: TransformerConfig = TransformerConfig()
    size: int = 32
    patch: int = 4
    vocab: int = 64
    length: int = 16
    tasks: tuple[tuple[str, float], ...] = (("names", 1.0), ("masked", 0.5), ("caption", 1.0), ("retrieve", 0.5))
    unseen: tuple[int, ...] = ()
    sampled: int = 0
    masked: float = 0.15
    smoothing: float = 0.1
    temperature: float = 0.07
    shared: bool = True
    heads: bool = False
    classes: int = 8
    peek: bool = False
    prompts: int = 0
    prompt_depth: int = 1

    def check(self) -> None:
        check_fields(self, {
            "patch": (self.patch > 0 and self.size % self.patch == 0, "it must divide size"),
            "length": (self.length > 2, "it must be at least 3"),
            "tasks": (bool(self.tasks) and {t for t, _ in self.tasks} <= {*TASKS}, f"choose from {', '.join(TASKS)}"),
            "masked": (0 < self.masked < 1, "it must be in (0, 1)"),
            "smoothing": (0 <= self.smoothing < 1, "it must be in [0, 1)"),
            "temperature": (self.temperature > 0.01, "it must be above 0.01, where the scale is capped"),
            "prompts": (self.prompts >= 0, "it must not be negative"),
            "classes": (self.classes > len(self.unseen), "classification needs a name that is seen"),
        })  # fmt: skip
        if self.sampled and not 2 <= self.sampled <= self.vocab:
            raise ConfigError(f"system.sampled is {self.sampled}: it must be in [2, {self.vocab}], or 0 for all words")

    def table_sizes(self) -> dict[str, int]:
        """Ids that it can take of modalities that no part of it is named after."""
        return {"label": self.classes}

    def build(self) -> System:
        self.check()
        net = Unified(self.transformer, self.size, self.patch, self.vocab, self.length, self.shared)
        heads = Heads(self.classes, self.vocab)
        scale = LogScale(1 / self.temperature, 100.0)
        weights = dict(self.tasks)
        seen = jnp.asarray([c not in self.unseen for c in range(self.classes)])

        def run(params: Params, method: Any, *args: Any, **options: Any) -> Any:
            if not self.prompts or "prompts" not in params:
                return net.apply({"params": params["net"]}, *args, method=method, **options)
            with prompts.prompted(params["prompts"]):
                return net.apply({"params": params["net"]}, *args, method=method, **options)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            first, second, third = jax.random.split(rng, 3)
            image, text = jnp.asarray(batch["image"]), jnp.asarray(batch["text"])
            params: Params = {"net": net.init(first, image, text)["params"]}
            params["scale"] = {t: scale.init(rng)["params"] for t in weights if not (self.heads and t != "retrieve")}
            if self.heads:
                params["heads"] = heads.init(second, jnp.zeros((1, self.transformer.width)))["params"]
            if self.prompts:
                encode = lambda: net.apply({"params": params["net"]}, text, method=Unified.of_text)  # noqa: E731
                params["prompts"] = prompts.init(third, encode, self.prompts, self.prompt_depth)
            return params, {}

        def temperature(params: Params, task: str) -> Float[Array, ""]:
            return scale.apply({"params": params["scale"][task]})

        def words(
            params: Params, h: Float[Array, "B L D"], labels: Int[Array, "B L"], task: str, rng: PRNGKeyArray | None
        ) -> tuple[Float[Array, "B L K"], Int[Array, "B L"]]:
            """(logits of the candidate words, the place of each label among them, -1 where it is none of them)."""
            if self.heads:
                return heads.apply({"params": params["heads"]}, h, method=Heads.of_words), labels
            ids, distinct = model.candidates(labels, self.vocab, self.sampled if rng is not None else 0, rng)
            targets = run(params, Unified.of_text, ids[:, None], target=True)
            logits = model.choose(h, targets, temperature(params, task))
            match = (labels[..., None] == ids) & distinct
            return jnp.where(distinct, logits, -1e9), jnp.where(match.any(-1), match.argmax(-1), -1)

        def names(params: Params, h: Float[Array, "B D"], candidates: Int[Array, "C L"]) -> Float[Array, "B C"]:
            if self.heads:
                return heads.apply({"params": params["heads"]}, h, method=Heads.of_names)
            return model.choose(h, run(params, Unified.of_text, candidates, target=True), temperature(params, "names"))

        def caption(params: Params, image: Array, text: Array, rng: PRNGKeyArray | None = None) -> tuple[Array, Array]:
            return words(params, run(params, Unified.of_caption, image, text, peek=self.peek), text, "caption", rng)

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            image, text, label = (jnp.asarray(batch[n]) for n in ("image", "text", "label"))
            keys = dict(zip(TASKS, jax.random.split(rng, len(TASKS))))
            h = run(params, Unified.of_image, image)
            losses: dict[str, Array] = {}
            metrics: Metrics = {}
            if "names" in weights:
                logits = jnp.where(seen, names(params, h, jnp.asarray(batch["names"])[0]), -1e9)
                errors = model.cross_entropy(logits, label, seen, self.smoothing)
                losses["names"] = masked_mean(errors, seen[label])
                right = (logits.argmax(-1) == label).astype(jnp.float32)
                metrics["names_accuracy"] = masked_mean(right, seen[label])
            if "masked" in weights:
                drawn, valid = jax.random.split(keys["masked"]), text >= FIRST_PIECE
                hidden = valid & (jax.random.uniform(drawn[0], text.shape) < self.masked)
                found = words(params, run(params, Unified.of_masked, text, hidden), text, "masked", drawn[1])
                losses["masked"], metrics["masked_accuracy"] = model.word_loss(*found, hidden)
            if "caption" in weights:
                found = caption(params, image, text, keys["caption"])
                losses["caption"], metrics["caption_accuracy"] = model.word_loss(*found, (text != PAD) & (text != BOS))
            if "retrieve" in weights:
                own = (
                    (text[:, None] == text[None]).all(-1).argmax(1).astype(jnp.int32)
                )  # the first row of the same words
                y = run(params, Unified.of_text, text, target=True)
                values = symmetric_info_nce(h, y, temperature(params, "retrieve"), own, self.smoothing, True)
                losses["retrieve"] = values.mean()
            value = sum(weights[t] * v for t, v in losses.items())
            return jnp.asarray(value), metrics | {f"{t}_loss": v for t, v in losses.items()}

        def write(params: Params, extras: Extras, batch: Batch) -> Int[Array, "B L"]:
            """Greedy captions, a word at a time: BOS ... EOS PAD PAD."""
            image = jnp.asarray(batch["image"])

            def next_word(i: Int[Array, ""], text: Int[Array, "B L"]) -> Int[Array, "B L"]:
                word = caption(params, image, text)[0][:, i].argmax(-1)
                ended = (text == EOS).any(1)
                return text.at[:, i].set(jnp.where(ended, PAD, word).astype(jnp.int32))

            start = jnp.full((len(image), self.length), PAD, jnp.int32).at[:, 0].set(BOS)
            return jax.lax.fori_loop(1, self.length, next_word, start)

        def forced(params: Params, extras: Extras, batch: Batch) -> Float[Array, " B"]:
            text = jnp.asarray(batch["text"])
            return model.share_right(caption(params, jnp.asarray(batch["image"]), text)[0].argmax(-1), text)

        def image_names(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B C"]:
            h, groups = run(params, Unified.of_image, jnp.asarray(batch["image"])), jnp.asarray(batch["names"])
            return jax.vmap(lambda x, group: names(params, x[None], group)[0])(h, groups)

        infer: dict[str, Any] = {
            "image": lambda p, e, b: run(p, Unified.of_image, jnp.asarray(b["image"])),
            "text": lambda p, e, b: run(p, Unified.of_text, jnp.asarray(b["text"]), target=True),
        }
        if "caption" in weights:
            infer |= {"write": write, "forced": forced}
            infer["written"] = lambda p, e, b: model.share_right(write(p, e, b), jnp.asarray(b["text"]))
        if "names" in weights:
            infer["name_logits"] = image_names
        return System(init, stateless(loss), infer)
