"""Retrieval in K languages, and how far they agree."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.evals import checks, retrieval
from mmrep.evals.geometry import rank_variance
from mmrep.model import Model


@dataclass(frozen=True)
class Languages:
    """Picture to text and back in each language, ranked among the texts of that language alone.

    Metrics: "R@k" (mean over languages and directions), "worst R@k" (of the language whose mean over both directions is the lowest),
    "spread R@k" (standard deviation over languages); "rank variance image->text" and "text->image" (section 3.4: the variance of each
    record's rank over languages), the same with ranks "clipped" at 100; "chance R@k".
    languages: infer names.
    """

    languages: tuple[str, ...]
    k: int = 10
    split: str = "test"
    name: str = "languages"

    def run(self, model: Model) -> dict[str, float]:
        images = model.embed_split("image", self.split)
        own = np.arange(len(images))
        ranks = []
        for language in self.languages:
            texts = model.embed_split(language, self.split)
            ranks.append((retrieval.ranks(images, texts, own), retrieval.ranks(texts, images, own)))
        recall = np.array([np.mean([(way <= self.k).mean() for way in both]) for both in ranks])
        k = f"R@{self.k}"
        found = {
            k: recall.mean(), f"worst {k}": recall.min(), f"spread {k}": recall.std(),
            f"chance {k}": retrieval.chance_recall(len(images), self.k),
        }  # fmt: skip
        for way, title in enumerate(("image->text", "text->image")):
            of = [both[way] for both in ranks]
            found[f"rank variance {title}"] = rank_variance(of)
            found[f"rank variance {title}, clipped"] = rank_variance([np.minimum(r, 100) for r in of])
        return {f"{self.name} {name}": float(v) for name, v in found.items()}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for languages that the system has no infer function of."""
        checks.functions(names, **{f"Languages.languages[{i}]": n for i, n in enumerate(self.languages)})
