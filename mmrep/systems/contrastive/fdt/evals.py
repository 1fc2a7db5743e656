"""Which codes are in use, and whether a word and what it describes have the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mmrep.errors import DataError
from mmrep.evals import checks
from mmrep.evals.grounding import described
from mmrep.model import Model


def shared_top(a: Float[np.ndarray, "N C"], b: Float[np.ndarray, "N C"], k: int) -> Float[np.ndarray, " N"]:
    """Share of the k largest entries that two rows have in common."""
    tops = []
    for scores in (a, b):
        top = np.zeros(scores.shape, bool)
        np.put_along_axis(top, np.argsort(-scores, 1, kind="stable")[:, :k], True, axis=1)
        tops.append(top)
    return (tops[0] & tops[1]).sum(1) / k


@dataclass(frozen=True)
class CodeAgreement:
    """Share of the k best codes of a word that are among those of the token that it describes ("agreement"), and among those of the token
    of another word, drawn among the other words ("control"); "chance" is k out of all codes.

    owner, text: record fields, see `mmrep.evals.grounding.Pointing`.   Raises ConfigError and DataError as it does.
    """

    k: int = 5
    owner: str = "owner"
    text: str = "text"
    split: str = "test"
    name: str = "codes"

    def run(self, model: Model) -> dict[str, float]:
        words, regions = (model.embed_split(f"{n}_code_scores", self.split) for n in ("text", "image"))
        spoken = model.embed_split("text_tokens", self.split)[1]
        texts, owners = (model.column(field, self.split) for field in (self.text, self.owner))
        found = list(described(texts, owners, spoken))
        names = np.array([word for _, _, word, _ in found])
        if len({*names}) < 2:
            raise DataError(f"CodeAgreement.owner is {self.owner!r}: fewer than two words of {self.split!r} have one")
        of_words = np.stack([words[i, at] for i, at, _, _ in found])
        of_regions = np.stack([regions[i, owner] for i, _, _, owner in found])
        rng = np.random.default_rng(0)
        other = np.array([rng.choice(np.flatnonzero(names != name)) for name in names])
        return {
            f"{self.name} agreement": float(shared_top(of_words, of_regions, self.k).mean()),
            f"{self.name} control": float(shared_top(of_words, of_regions[other], self.k).mean()),
            f"{self.name} chance": self.k / words.shape[-1],
        }

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for settings that do not fit the system's infer functions or the split's records."""
        checks.functions(names, **{"CodeAgreement needs": "text_code_scores"})
        checks.fields(split(self.split), [self.owner, self.text])


@dataclass(frozen=True)
class CodeUse:
    """Share of the codes that a record of each modality activates ("active"), and of those that no record of the split does ("dead")."""

    modalities: tuple[str, ...] = ("image", "text")
    split: str = "test"
    name: str = "codes"

    def run(self, model: Model) -> dict[str, float]:
        found: dict[str, float] = {}
        for name in self.modalities:
            used = model.embed_split(f"{name}_codes", self.split) > 0
            found |= {f"{self.name} active {name}": float(used.mean()), f"{self.name} dead {name}": float((~used.any(0)).mean())}  # fmt: skip
        return found

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError where the system has no codes of a modality."""
        checks.functions(names, **{f"CodeUse.modalities {n}": f"{n}_codes" for n in self.modalities})
