"""Ranking of entities for mentions by the system's score."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.evals import checks, retrieval
from mmrep.model import Model


@dataclass(frozen=True)
class Linking:
    """Entity linking over the entities of the split: "H@k", "MRR" and "mean rank" of each mention's own entity; ties have their mean rank.

    entity: a record field that identifies the entity; each is a candidate once, by its first record.
    homonyms: a record field; "H@1 homonyms" ranks the candidates that share its value. Empty: not measured.
    by: a record field; each metric at 1 also a value of it, "H@1 [crossed]".
    """

    entity: str = "entity_id"
    homonyms: str = ""
    by: str = ""
    ks: tuple[int, ...] = (1, 3, 5, 10, 20)
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        ids = np.asarray([str(v) for v in model.column(self.entity, self.split)])
        known, first = np.unique(ids, return_index=True)
        mentions = model.embed_split("mention_tokens", self.split)
        entities = tuple(x[first] for x in model.embed_split("entity_tokens", self.split))
        scores = model.score_matrix(mentions, entities, block=4096, names=("mention", "entity"))
        own = np.searchsorted(known, ids)
        ranks = retrieval.ranks_of_scores(scores, own)
        found = {f"H@{k}": float(np.mean(ranks <= k)) for k in self.ks}
        found |= {"MRR": float(np.mean(1 / ranks)), "mean rank": float(ranks.mean()), "entities": float(len(known))}
        kinds = [str(v) for v in model.column(self.by, self.split)] if self.by else []
        found |= self._by(ranks <= 1, "H@1", kinds)
        if self.homonyms:
            names = np.asarray([str(v) for v in model.column(self.homonyms, self.split)])
            among = np.where(names[:, None] == names[first][None], scores, -np.inf)
            hits = retrieval.ranks_of_scores(among, own) <= 1
            found["H@1 homonyms"] = float(hits.mean())
            found |= self._by(hits, "H@1 homonyms", kinds)
        return found

    def _by(self, hits: np.ndarray, metric: str, kinds: Sequence[str]) -> dict[str, float]:
        column = np.asarray(kinds)
        return {f"{metric} [{k}]": float(hits[column == k].mean()) for k in dict.fromkeys(sorted(kinds))}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a system without the score, or a field that the records lack."""
        checks.ks(self.ks)
        checks.functions(names, score="score", mention="mention_tokens", entity="entity_tokens")
        checks.fields(split(self.split), [self.entity, self.homonyms, self.by])
