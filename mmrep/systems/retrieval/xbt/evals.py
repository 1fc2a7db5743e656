"""Whether new queries on the old gallery beat old queries on it."""

from dataclasses import dataclass

import numpy as np

from mmrep.evals import retrieval
from mmrep.model import Model

PARTNER = {"image": "text", "text": "image"}


@dataclass(frozen=True)
class Compatibility:
    """Recall at k of three pairs of query and gallery, both directions: old/old, new/old (through phi) and new/new (its own space).

    Metrics for each direction, such as "image->text": "... old/old R@1", "... new/old R@1", "... new/new R@1" in [0, 1]; "... gain", new/old
    minus old/old, which is positive where the criterion holds; "... negative flips", the share of queries that the old query answers and the
    new one does not. Chance of R@k is k over the number of candidates.
    """

    k: int = 1
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        found: dict[str, float] = {"chance": min(1.0, self.k / len(model.embed_split("old_text", self.split)))}
        for query, gallery in PARTNER.items():
            pairs = {
                "old/old": (f"old_{query}", f"old_{gallery}"), "new/old": (query, f"old_{gallery}"), "new/new": (f"new_{query}", f"new_{gallery}"),
            }  # fmt: skip
            right = {}
            for name, (a, b) in pairs.items():
                q, g = model.embed_split(a, self.split), model.embed_split(b, self.split)
                right[name] = retrieval.ranks(q, g, np.arange(len(q))) <= self.k
            way = f"{query}->{gallery}"
            found |= {f"{way} {name} R@{self.k}": float(hit.mean()) for name, hit in right.items()}
            found[f"{way} gain"] = float(right["new/old"].mean() - right["old/old"].mean())
            found[f"{way} negative flips"] = float((right["old/old"] & ~right["new/old"]).mean())
        return found
