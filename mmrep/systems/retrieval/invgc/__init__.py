"""InvGC: inverse graph convolution over stored embeddings, against crowding (Jian and Wang 2023, arXiv 2310.13025)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.data import pipeline
from mmrep.errors import ConfigError
from mmrep.evals.view import View, embed_rows
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.nn.heads import l2_normalise
from mmrep.nn.towers import ImageTower, TextTower, encoders
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.retrieval.invgc.gallery import Bank, Rows, check
from mmrep.systems.retrieval.invgc.treatment import Pair, choose, lie, query_bank, recall

Step = float | Float[Array, ""]
PARTNER = {"image": "text", "text": "image"}


@dataclass(frozen=True)
class Config:
    """A small dual encoder whose galleries are post-processed.

    bank: training embeddings kept of each modality.   rate: share of a bank that counts as near (LocalAdj).
    r_g, r_q: step sizes away from the gallery's own bank and from the queries' bank; choose them on validation (`Robust`).
    """

    image: ImageTower = ImageTower()
    text: TextTower = TextTower()
    dim: int = 64
    bank: int = 1000
    rate: float = 0.01
    r_g: float = 0.5
    r_q: float = 0.5
    dtype: str = "float32"

    def build(self) -> System:
        if self.bank < 1:
            raise ConfigError(f"system.bank is {self.bank}: a bank needs at least one row")
        if not 0.0 < self.rate <= 1.0:
            raise ConfigError(f"system.rate is {self.rate}: it is a share of the bank, in (0, 1]")
        model = encoders({"image": self.image, "text": self.text}, self.dim, dtype=self.dtype)
        k = neighbours(self.rate, self.bank)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            return model.init(rng, batch), {f"bank_{n}": jnp.zeros((self.bank, self.dim), jnp.float32) for n in PARTNER}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            x, y, scale = model.embed(params, batch, "image"), model.embed(params, batch, "text"), model.scale(params)
            return symmetric_info_nce(x, y, scale).mean(), {"scale": scale, "cosine": (x * y).sum(-1).mean()}

        def gallery(name: str) -> Callable[[Params, Extras, Batch], Array]:
            def run(params: Params, extras: Extras, batch: Batch) -> Array:
                x = model.embed(params, batch, name)
                own, other = extras[f"bank_{name}"], extras[f"bank_{PARTNER[name]}"]
                return combine(local_adj(x, own, self.r_g, k), local_adj(x, other, self.r_q, k))

            return run

        return System(init, stateless(loss), {**model.infer(), **{f"{n}_gallery": gallery(n) for n in PARTNER}})


def collect_banks(params: Params, extras: Extras, context: Any) -> tuple[Params, Extras]:
    """A phase: the first training pairs' embeddings become the banks. Raises ConfigError where the split has too few."""
    n = extras["bank_image"].shape[0]
    if len(context.split) < n:
        raise ConfigError(f"system.bank is {n}, but the training split has only {len(context.split)} pairs: lower it")

    def bank(name: str) -> Array:
        run = jax.jit(context.system.infer[name])
        return jnp.asarray(embed_rows(lambda batch: run(params, extras, batch), context.split, n))

    return params, extras | {f"bank_{name}": bank(name) for name in PARTNER}


def neighbours(rate: float, n: int) -> int:
    """k = max(1, int(rate n)) of LocalAdj; without the floor a small bank divides by zero."""
    return max(1, int(rate * n))


def inv_gc(gallery: Rows, bank: Bank, r: Step) -> Float[Array, "M D"]:
    """norm(G - r/n (W - e) B) with W = G B' and e the mean of all its entries (equation 6, centred as the authors' code does).

    e depends on which gallery rows come together. Neither W nor a pass over its blocks is needed: W B = G (B'B), and e is the
    dot product of the mean rows.
    """
    g, b = jnp.asarray(gallery), jnp.asarray(bank)
    e = g.mean(0) @ b.mean(0)
    return l2_normalise(g - r / b.shape[0] * (g @ (b.T @ b) - e * b.sum(0)))


def nearest(gallery: Rows, bank: Bank, k: int, own: Int[Array | np.ndarray, " M"] | None = None) -> Int[Array, "M K"]:
    """The k most similar bank rows of each gallery row, ties to the lower index.

    own: the bank row that is the gallery item itself (-1 for none), left out: moving away from oneself only shrinks or flips a vector.
    """
    w = jnp.asarray(gallery) @ jnp.asarray(bank).T
    if own is not None:
        w = jnp.where(jnp.arange(w.shape[1]) == jnp.asarray(own)[:, None], -jnp.inf, w)
    return jax.lax.top_k(w, k)[1]


def move_away(gallery: Rows, bank: Bank, index: Int[Array | np.ndarray, "M K"], r: Step) -> Float[Array, "M D"]:
    """norm(G - r/k sum_j w_ij b_j) over the bank rows `index` of each gallery row, w their dot products."""
    g, near = jnp.asarray(gallery), jnp.asarray(bank)[index]
    w = jnp.einsum("md,mkd->mk", g, near)
    return l2_normalise(g - r / index.shape[1] * jnp.einsum("mk,mkd->md", w, near))


def local_adj(
    gallery: Rows, bank: Bank, r: Step, k: int, own: Int[Array | np.ndarray, " M"] | None = None, chunk: int = 1024
) -> Float[Array, "M D"]:
    """InvGC over the k nearest bank rows alone, not centred (LocalAdj, equation 8), `chunk` gallery rows at a time."""
    g, b = jnp.asarray(gallery), jnp.asarray(bank)
    own = jnp.full(len(g), -1) if own is None else jnp.asarray(own)
    return jax.lax.map(
        lambda row: move_away(row[0][None], b, nearest(row[0][None], b, k, row[1][None]), r)[0], (g, own),
        batch_size=min(chunk, len(g)),
    )  # fmt: skip


def combine(first: Float[Array, "M D"], second: Float[Array, "M D"]) -> Float[Array, "M D"]:
    """norm(1/2 G'_gallery bank + 1/2 G'_query bank)."""
    return l2_normalise(0.5 * first + 0.5 * second)


def compare(
    val: Pair, test: Pair, banks: Pair, foreign: Pair | None = None, *,
    steps: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0), rate: float = 0.01, seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """R@1 of the ways to treat a gallery, each with its step size chosen on `val`; val and test are (queries, gallery).

    banks: (queries, gallery) of training data.   foreign: the same of another domain.   Also the geometry before and after.
    """
    bank_q, bank_g = banks
    for rows in (*val, *test, bank_q):
        check(rows, bank_g)
    k, (queries, gallery) = neighbours(rate, len(bank_g)), test

    @jax.jit
    def local(g: Any, r: Step, q: Any = bank_q, b: Any = bank_g) -> Array:
        return combine(local_adj(g, b, r, k), local_adj(g, q, r, k))

    @jax.jit
    def plain(g: Any, r: Step) -> Array:
        return combine(inv_gc(g, bank_g, r), inv_gc(g, bank_q, r))

    def scattered(g: Any, r: Step, rng: np.random.Generator) -> Array:
        return combine(*(move_away(g, b, rng.integers(0, len(b), (len(g), k)), r) for b in (bank_g, bank_q)))

    r = choose(steps, lambda r: recall((val[0], local(val[1], r))))
    s = choose(steps, lambda r: recall((val[0], plain(val[1], r))))
    moved, centre = local(gallery, r), jnp.asarray(bank_g).mean(0)
    ways = {
        "base": gallery, "LocalAdj": moved, "InvGC": plain(gallery, s), "centred": l2_normalise(jnp.asarray(gallery) - centre),
        "sign flipped": local(gallery, -r), "random neighbours": scattered(gallery, r, np.random.default_rng(seed)),
    } | ({} if foreign is None else {"foreign bank": local(gallery, r, *foreign)})  # fmt: skip
    found = {name: recall((queries, way)) for name, way in ways.items()}
    found["QB-Norm"], found["beta"] = query_bank(val, test, bank_q)
    found |= {"r": r, "r InvGC": s, "gain": found["LocalAdj"] - found["base"]}
    return found | lie(test, "before") | lie((queries, moved), "after")


@dataclass(frozen=True)
class Robust:
    """`compare` on a trained dual encoder, for queries of one modality; metrics "<query>-><target> LocalAdj" and so on.

    bank: training pairs in the banks.   foreign: a data source of another domain.   steps, rate: as in `compare`.
    """

    query: str
    target: str
    bank: int = 1000
    rate: float = 0.01
    steps: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
    foreign: Any = None
    split: str = "test"

    def run(self, view: View) -> dict[str, float]:
        names = (self.query, self.target)

        def bank(records: pipeline.Split) -> Pair:
            q, g = (embed_rows(partial(view.infer, n), records, self.bank) for n in names)
            return q, g

        val, test = ((view.embed(self.query, s), view.embed(self.target, s)) for s in ("val", self.split))
        foreign: Any = None
        if self.foreign is not None:
            foreign = bank(pipeline.open_split(view.data, view.tokenize, "train", self.foreign))
        found = compare(val, test, bank(view.split("train")), foreign, steps=self.steps, rate=self.rate)
        return {f"{self.query}->{self.target} {k}": v for k, v in found.items()}
