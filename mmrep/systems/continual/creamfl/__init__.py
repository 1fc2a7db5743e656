"""CreamFL: a server and clients of other architectures and modalities exchange representations (Yu et al. 2023, arXiv 2302.08888).

Section 3.1, rounds: only features of public samples travel      rounds.rounds, rounds.Broadcast, Config.stage
Section 3.2, global-local contrastive aggregation (GCA)          model.agreement, model.aggregate, rounds.Aggregate
Section 3.2, distillation of the aggregate into the server       Config.stage "distil", Config.distil
Section 3.3, inter-modal and intra-modal contrast (LCR)          model.inter_loss, model.intra_loss
Retrieval loss of the server and of image-text clients (PCME)    model.soft_contrastive_loss
Public and private records                                       data.Federated, data.Filtered

Clients are trained side by side in one program and each keeps its weights. Left out: margins and the centre term of the authors' image
clients, whose loss here is softmax cross-entropy. Losses are means over the batch, the authors' retrieval loss is a sum.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.nn.dual import Embedder, Encoder
from mmrep.nn.heads import Projection, l2_normalise
from mmrep.system import Batch, Extras, Metrics, Params, System
from mmrep.systems.continual.creamfl.model import balanced, inter_loss, intra_loss, soft_contrastive_loss

Stage = Literal["server", "private", "contrast", "distil"]


@dataclass(frozen=True)
class Client:
    """A client with an encoder of `image`, of `text`, or of both; one with a single modality classifies its `label` into `classes`."""

    name: str
    image: Encoder | None = None
    text: Encoder | None = None
    classes: int = 0

    @property
    def encoders(self) -> dict[str, Encoder]:
        return {m: e for m, e in (("image", self.image), ("text", self.text)) if e is not None}


@dataclass(frozen=True)
class Config:
    """A batch has public `image`, `text` and `row`, and `<client>_image`, `<client>_text`, `<client>_label` of the clients' own records.

    image, text: the server's encoders; clients have their own.   public: number of public samples.   stage: what a phase trains, see `rounds`.
    objective: of the server and of clients with both modalities: "soft" (PCME) or "infonce", at `temperature`.
    inter, intra: use the contrast (False is an ablation).   contrast_temperature: of both.   contrast: weight of their sum.
    scale_inter: give the inter-modal loss the intra-modal one's size.   distil: weight of the mean squared errors, which count once for each
    kind of client (of one modality, of both) that there is.
    """

    image: Encoder | None = None
    text: Encoder | None = None
    clients: tuple[Client, ...] = ()
    public: int = 1000
    dim: int = 64
    stage: Stage = "server"
    objective: Literal["soft", "infonce"] = "soft"
    temperature: float = 0.07
    inter: bool = True
    intra: bool = True
    contrast_temperature: float = 0.5
    contrast: float = 0.5
    scale_inter: bool = False
    distil: float = 0.3
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "image": (self.image is not None and self.text is not None, "give it and text an encoder"),
            "public": (self.public >= 1, "give the number of public samples"),
            "temperature": (0 < self.temperature < math.inf, "it must be positive and finite"),
            "contrast_temperature": (0 < self.contrast_temperature < math.inf, "it must be positive and finite"),
            "contrast": (self.contrast >= 0, "it must be at least 0"),
            "distil": (self.distil >= 0, "it must be at least 0"),
        })  # fmt: skip
        names = [c.name for c in self.clients]
        if (
            not names
            or len({*names}) < len(names)
            or {"server", "image", "text", "row"} & {*names}
            or any("_" in n for n in names)
        ):
            raise ConfigError(f"system.clients names {names}: give one or more, each once, without underscores")
        for c in self.clients:
            if not c.encoders or (len(c.encoders) == 1 and c.classes < 2):
                raise ConfigError(
                    f"system.clients: {c.name!r} needs an encoder, and classes where it has one modality alone"
                )

    def build(self) -> System:
        self.check()
        kind = jnp.dtype(self.dtype)
        sides: dict[str, dict[str, Any]] = {"server": {"image": self.image, "text": self.text}}
        sides |= {c.name: c.encoders for c in self.clients}
        modules = {o: {m: Embedder(e, self.dim, dtype=kind) for m, e in of.items()} for o, of in sides.items()}
        heads = {
            c.name: Projection(c.classes, normalise=False, use_bias=True) for c in self.clients if len(c.encoders) == 1
        }
        kinds = {m: len({len(c.encoders) for c in self.clients if m in c.encoders}) for m in ("image", "text")}

        def place(owner: str) -> str:
            return owner if owner == "server" else f"client_{owner}"

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            params: Params = {}
            for i, (owner, of) in enumerate(modules.items()):
                keys = jax.random.split(jax.random.fold_in(rng, i), 3)
                params[place(owner)] = {m: e.init(keys[k], batch[m])["params"] for k, (m, e) in enumerate(of.items())}
                if owner in heads:
                    params[place(owner)]["head"] = heads[owner].init(keys[2], jnp.zeros((1, self.dim)))["params"]
                elif self.objective == "soft":
                    params[place(owner)]["match"] = {k: jnp.full((), 5.0, jnp.float32) for k in ("scale", "shift")}
            keys = jax.random.split(jax.random.fold_in(rng, len(modules)))
            drawn = [l2_normalise(jax.random.normal(k, (self.public, self.dim), jnp.float32)) for k in keys]
            zeros, zero, pair = (
                jnp.zeros((self.public, self.dim), jnp.float32),
                jnp.zeros((), jnp.float32),
                ("image", "text"),
            )
            return params, {
                **{m: zeros for m in pair}, "target": dict(zip(pair, drawn)), "has": {m: zero + 1 for m in pair},
                "old": {c.name: {m: zeros for m in c.encoders} for c in self.clients},
                "trust": {m: {c.name: zero for c in self.clients if m in c.encoders} for m in pair},
                "chosen": {c.name: zero + 1 for c in self.clients}, "megabytes": zero,
            }  # fmt: skip

        def embed(params: Params, owner: str, m: str, x: Any) -> Float[Array, "B D"]:
            return modules[owner][m].apply({"params": params[place(owner)][m]}, x)[0]

        def match(params: Params, owner: str, x: Array, y: Array) -> Float[Array, ""]:
            if self.objective == "infonce":
                return symmetric_info_nce(x, y, 1 / self.temperature).mean()
            found = params[place(owner)]["match"]
            return soft_contrastive_loss(x, y, found["scale"], found["shift"]).mean()

        def private(params: Params, batch: Batch, c: Client) -> Float[Array, ""]:
            x = {m: embed(params, c.name, m, batch[f"{c.name}_{m}"]) for m in c.encoders}
            if len(x) == 2:
                return match(params, c.name, x["image"], x["text"])
            logits = heads[c.name].apply({"params": params[place(c.name)]["head"]}, *x.values())
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch[f"{c.name}_label"]).mean()

        def regularised(params: Params, extras: Extras, batch: Batch, c: Client) -> Float[Array, ""]:
            row, inter, intra = batch["row"], jnp.zeros(()), []
            for m in c.encoders:
                u, other = embed(params, c.name, m, batch[m]), extras["text" if m == "image" else "image"]
                inter += inter_loss(u, other, row, self.contrast_temperature).mean()
                intra.append(
                    intra_loss(u, extras[m][row], extras["old"][c.name][m][row], self.contrast_temperature).mean()
                )
            moon = jnp.stack(intra).mean()
            if self.inter and self.intra:
                return self.contrast * (balanced(inter, moon) if self.scale_inter else inter + moon)
            return self.contrast * (self.inter * inter + self.intra * moon)

        def loss(
            params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
        ) -> tuple[Array, tuple[Extras, Metrics]]:
            if self.stage in ("server", "distil"):
                x = {m: embed(params, "server", m, batch[m]) for m in ("image", "text")}
                if self.stage == "server":
                    return match(params, "server", x["image"], x["text"]), (extras, {})
                errors = {m: jnp.mean(jnp.square(x[m] - extras["target"][m][batch["row"]])) for m in x}
                value = self.distil * sum(kinds[m] * extras["has"][m] * errors[m] for m in x)
                return value, (extras, {"megabytes": extras["megabytes"]})
            own = private if self.stage == "private" else partial(regularised, extras=extras)
            each = [extras["chosen"][c.name] * own(params, batch=batch, c=c) for c in self.clients]
            return sum(each, jnp.zeros(())), (extras, {})

        def public(params: Params, extras: Extras, batch: Batch) -> dict[str, dict[str, Array]]:
            """The public samples' features by the server and by every client, of its modalities."""
            return {o: {m: embed(params, o, m, batch[m]) for m in of} for o, of in modules.items()}

        infer: dict[str, Any] = {"public": public}
        for m in ("image", "text"):
            infer[m] = lambda params, extras, batch, m=m: embed(params, "server", m, batch[m])
        return System(init, loss, infer)
