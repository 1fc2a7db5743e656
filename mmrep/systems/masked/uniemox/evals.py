"""Few labels: a linear probe, beside an untrained encoder and the teacher's own vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from mmrep import modality
from mmrep.evals import checks
from mmrep.evals.probe import ridge_probe
from mmrep.model import Model


@dataclass(frozen=True)
class FewLabels:
    """ "few labels": test accuracy, in [0, 1], of a ridge probe on `features` of the first `n` training records; lambda is chosen on val.

    "untrained" is the same system at its initialisation, "raw" the pixels of `raw`; "chance" the share of the commonest test label.
    """

    label: str = "label"
    n: int = 200
    features: str = "features"
    raw: tuple[str, ...] = ("scene", "person")

    def run(self, model: Model) -> dict[str, float]:
        labels = {s: np.asarray(model.column(self.label, s)) for s in ("train", "val", "test")}
        labels["train"] = labels["train"][: self.n]
        key = jax.random.key(model.experiment.train.seed)
        params, extras = jax.jit(model.system.init)(key, modality.example(model.data.modalities, 2))
        untrained = Model(
            model.experiment,
            params,
            extras,
            sentencepiece=model.sentencepiece,
            system=model.system,
            tokenize=model.tokenize,
        )
        found = {}
        for name, of in (("few labels", model), ("untrained", untrained)):
            found[name] = self._probe({s: of.embed_split(self.features, s) for s in labels}, labels)
        pixels = {
            s: np.stack(
                [np.concatenate([np.asarray(r[f], np.float32).ravel() for f in self.raw]) for r in model.records(s)]
            )
            for s in labels
        }
        found["raw"] = self._probe(pixels, labels)
        return found | {"chance": float(np.bincount(labels["test"]).max() / len(labels["test"]))}

    def _probe(self, x: dict[str, np.ndarray], y: dict[str, np.ndarray]) -> float:
        return float(ridge_probe(x["train"][: self.n], y["train"], x["val"], y["val"], x["test"], y["test"]).accuracy)

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for features that the system lacks or fields that the records lack."""
        checks.functions(names, **{"FewLabels.features": self.features})
        checks.fields(split("test"), [self.label, *self.raw])
