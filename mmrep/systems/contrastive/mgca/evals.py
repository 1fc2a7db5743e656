"""Whether image and report of one patient have the same prototype."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.evals import checks
from mmrep.model import Model


@dataclass(frozen=True)
class SamePrototype:
    """Share of the records whose two modalities have one nearest prototype ("same"); among records shuffled at random ("shuffled"), which
    is high where few prototypes are in use; and the number of prototypes that image and text use, averaged ("used")."""

    modalities: tuple[str, str] = ("image", "text")
    split: str = "test"
    name: str = "prototypes"

    def run(self, model: Model) -> dict[str, float]:
        a, b = (np.asarray(model.embed_split(f"{n}_prototypes", self.split)).argmax(1) for n in self.modalities)
        shares = [np.bincount(x, minlength=max(a.max(), b.max()) + 1) / len(x) for x in (a, b)]
        return {
            f"{self.name} same": float((a == b).mean()),
            f"{self.name} shuffled": float((shares[0] * shares[1]).sum()),
            f"{self.name} used": (len({*a.tolist()}) + len({*b.tolist()})) / 2,
        }

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError where the system has no prototypes of a modality."""
        checks.functions(names, **{f"SamePrototype.modalities {n}": f"{n}_prototypes" for n in self.modalities})
