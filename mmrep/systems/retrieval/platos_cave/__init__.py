"""Plato's cave: two spaces of unimodal encoders, aligned after training in a shared subspace (Hadgi et al. 2025, arXiv 2503.05283).

Section 3.1, linear CKA                                   mmrep.solvers.linear_cka
Section 3.2, affine translation and local CKA             mmrep.solvers.affine, model.local_cka
Section 3.3, subspaces by CCA                             mmrep.solvers.cca, model.align, Fit
Section 4, matching by assignment, retrieval              model.matching, model.top, evals.Matching
Table 2, all methods on two arrays and anchors            model.compare, the command experiments.align
Unimodal training: deformations of points; masked words   view_loss, word_loss

k is chosen on held-out anchors; the paper takes 50. The correlation with Chamfer distances (section 5) is left out. The paper's own point
encoders (PointBERT and others) enter as stored vectors; the built-in one is a transformer over points.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.data.pipeline import embed_rows
from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.losses.masked import token_loss
from mmrep.losses.reduce import masked_mean
from mmrep.modality import FIRST_PIECE, MASK
from mmrep.nn.dual import Encoder, init_parts, inputs
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import MaskedLmHead, Projection, l2_normalise
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.retrieval.platos_cave.model import align_by_hold_out


@dataclass(frozen=True)
class Config:
    """Two encoders that never see a pair, and maps of their pooled outputs into one space, which `Fit` computes.

    encoders:  (name, encoder) twice. VectorEncoder() takes stored embeddings.
    dims:      of the outputs of the two encoders.   k: dimensions of the shared space, at most; those that `Fit` leaves out are 0.
    objective: of a phase: "views" trains the first encoder to recognise `<name>_b`, a deformed copy of its input; "words" trains the
               second, a TextEncoder, to predict masked words; "" has no loss.
    temperature: of the contrast of views.   rate: share of words that are masked.
    """

    encoders: tuple[tuple[str, Encoder], ...] = ()
    dims: tuple[int, int] = (64, 64)
    k: int = 50
    objective: Literal["", "views", "words"] = ""
    temperature: float = 0.1
    rate: float = 0.3
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "dims": (len(self.dims) == 2 and min(self.dims) >= 1, "give the number of outputs of both encoders"),
            "k": (1 <= self.k <= min(self.dims), "it must be at least 1 and at most the smaller of dims"),
            "objective": (self.objective in ("", "views", "words"), "choose views, words or nothing"),
            "temperature": (self.temperature > 0, "it must be positive"),
            "rate": (0 < self.rate < 1, "it is a share of the words, in (0, 1)"),
        })  # fmt: skip
        names = [name for name, _ in self.encoders]
        if not 2 == len(names) == len({*names} - {"views", "words"}):
            raise ConfigError(f"system.encoders names {names}: give two, none of them views or words")
        if self.objective == "words" and not isinstance(self.encoders[1][1], TextEncoder):
            raise ConfigError('system.objective is "words": the second encoder must be a TextEncoder')

    def build(self) -> System:
        self.check()
        (first, one), (second, other) = self.encoders
        dtype = jnp.dtype(self.dtype)
        modules = {first: one.module(dtype), second: other.module(dtype)}
        head, lm = Projection(self.dims[0], hidden=self.dims[0], use_bias=True), MaskedLmHead(dtype)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            learnt = {n: m for n, m in modules.items() if jax.eval_shape(m.init, rng, *inputs(batch, n))}
            params = init_parts(rng, learnt, batch)
            keys = jax.random.split(jax.random.fold_in(rng, 1), 2)
            params["views"] = head.init(keys[0], jnp.zeros((1, self.dims[0])))["params"]
            if isinstance(other, TextEncoder):
                width = other.transformer.width
                params["words"] = lm.init(keys[1], jnp.zeros((1, width)), jnp.zeros((other.vocab, width)))["params"]
            maps = {
                name: {"weight": jnp.eye(dim, self.k, dtype=jnp.float32), "bias": jnp.zeros(self.k, jnp.float32)}
                for name, dim in zip((first, second), self.dims)
            }
            return params, {"maps": maps}

        def features(params: Params, batch: Batch, name: str) -> Float[Array, "B D"]:
            pooled, _ = modules[name].apply({"params": params.get(name, {})}, *inputs(batch, name))
            return pooled.astype(jnp.float32)

        def views(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            x, y = (
                head.apply({"params": params["views"]}, features(params, {first: batch[field]}, first))
                for field in (first, f"{first}_b")
            )
            return view_loss(x, y, self.temperature), {"cosine": (x * y).sum(-1).mean()}

        def words(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            ids = batch[second]
            seen, hidden = mask_words(rng, ids, self.rate)
            _, out = modules[second].apply({"params": params[second]}, seen)
            table = params[second]["embed"]["embedding"]
            logits = lm.apply({"params": params["words"]}, out["tokens"], table)
            value = masked_mean(token_loss(logits, ids, hidden), hidden)
            return value, {"accuracy": masked_mean(logits.argmax(-1) == ids, hidden)}

        def aligned(params: Params, extras: Extras, batch: Batch, name: str) -> Float[Array, "B K"]:
            found = extras["maps"][name]
            return l2_normalise(features(params, batch, name) @ found["weight"] + found["bias"])

        infer: dict[str, Any] = {}
        for name in modules:
            infer[name] = lambda params, extras, batch, n=name: aligned(params, extras, batch, n)
            infer[f"{name}_features"] = lambda params, extras, batch, n=name: features(params, batch, n)
        losses: Mapping[str, Any] = {"": None, "views": stateless(views), "words": stateless(words)}
        return System(init, losses[self.objective], infer)


@dataclass(frozen=True)
class Fit:
    """A phase's `run`: the first `anchors` pairs of its split give the maps of both spaces, by CCA and a least-squares map (section 3.3).

    ks:  dimensions to choose from, on held-out anchors.   eps: regularises the covariances, see `mmrep.solvers.cca`.
    """

    ks: tuple[int, ...] = (5, 10, 20, 40)
    anchors: int = 30_000
    eps: float = 1e-3

    def __call__(self, params: Params, extras: Extras, context: Any) -> tuple[Params, Extras]:
        names, n = [*extras["maps"]], min(self.anchors, len(context.split))
        sides = {}
        for name in names:
            infer = jax.jit(context.system.infer[f"{name}_features"])
            of: Any = lambda b, infer=infer, name=name: infer(params, extras, own(b, name))  # noqa: E731
            sides[name] = embed_rows(of, context.split, n)
        order = [k for k in context.system.infer if k in names]
        found = align_by_hold_out(sides[order[0]], sides[order[1]], self.ks, self.eps)
        maps = {}
        for name, affine in zip(order, (found.x, found.y)):
            weight, bias = (
                np.zeros(v.shape, np.float32) for v in (extras["maps"][name]["weight"], extras["maps"][name]["bias"])
            )
            k = min(found.k, len(bias))
            weight[:, :k], bias[:k] = affine.weight[:, :k], affine.bias[:k]
            maps[name] = {"weight": jnp.asarray(weight), "bias": jnp.asarray(bias)}
        return params, {**extras, "maps": maps}


def own(batch: Batch, name: str) -> Batch:
    """The entries of one modality."""
    return {k: v for k, v in batch.items() if k in (name, f"{name}_length")}


def view_loss(x: Float[Array, "B D"], y: Float[Array, "B D"], temperature: float) -> Float[Array, ""]:
    """InfoNCE between two deformations of each shape, unit rows."""
    return symmetric_info_nce(x, y, 1 / temperature).mean()


def mask_words(rng: PRNGKeyArray, ids: Int[Array | np.ndarray, "B L"], rate: float) -> tuple[Int[Array, "B L"], Any]:
    """(ids with MASK in random places, those places): each word with probability `rate`, special ids never."""
    hidden = (jax.random.uniform(rng, ids.shape) < rate) & (ids >= FIRST_PIECE)
    return jnp.where(hidden, MASK, ids), hidden
