"""Colours that a text names."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.errors import DataError
from mmrep.evals import checks
from mmrep.model import Model


@dataclass(frozen=True)
class Colouring:
    """Mean squared error of a band that the text names, in the coloured grey picture: with the text ("true"), with another value's word in
    the place of its own ("other"), and with a text of `nothing` ("none").

    bands: the words of each horizontal band's values, from the top; the bands are of equal height. One told band is drawn for each record.
    """

    bands: tuple[tuple[str, ...], ...]
    nothing: str
    split: str = "test"
    limit: int = 256
    seed: int = 0
    name: str = "colouring"

    def run(self, model: Model) -> dict[str, float]:
        rng = np.random.default_rng(self.seed)
        field = model.modality("image").source
        records = model.records(self.split, self.limit)
        band_of = {w: b for b, words in enumerate(self.bands) for w in words}
        texts: dict[str, list[str]] = {"true": [], "other": [], "none": []}
        chosen, pictures = [], []
        for record in records:
            words = record[model.modality("text").source].split()
            told = [i for i, w in enumerate(words) if w in band_of]
            if not told:
                continue
            at = int(rng.choice(told))
            others = [w for w in self.bands[band_of[words[at]]] if w != words[at]]
            changed = [*words[:at], str(rng.choice(others)), *words[at + 1 :]]
            for kind, text in (("true", words), ("other", changed), ("none", [self.nothing])):
                texts[kind].append(" ".join(text))
            chosen.append(band_of[words[at]])
            pictures.append(record[field])
        if not chosen:
            raise DataError(f"Colouring.bands names no word of the texts of {self.split!r}")
        images = np.stack([model.preprocess("image", p) for p in pictures])
        rows = images.shape[1] // len(self.bands)
        found = {}
        for kind, given in texts.items():
            coloured = np.asarray(model.call("colours", image=pictures, text=given))
            errors = ((coloured - images) ** 2).reshape(len(images), len(self.bands), rows, -1).mean((2, 3))
            found[f"{self.name} {kind}"] = float(errors[np.arange(len(images)), chosen].mean())
        return found

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError where the system colours no pictures."""
        checks.functions(names, **{"Colouring needs": "colours"})
