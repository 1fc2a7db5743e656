"""Zero-shot intents of speech by text prompts (Srinivasa et al. 2023)."""

from dataclasses import dataclass

import numpy as np

from mmrep.evals import zero_shot
from mmrep.model import Model


@dataclass(frozen=True)
class SpokenIntent:
    """Zero-shot intents of speech: an intent's embedding is the renormalised mean of its prompts' text embeddings.

    prompts: equally many sentences for each intent, in the order of the labels.   label: the record field with the intent.
    """

    prompts: tuple[tuple[str, ...], ...]
    label: str = "intent"
    split: str = "test"
    name: str = "zero-shot intent"

    def run(self, model: Model) -> dict[str, float]:
        embedded = model.call("text", text=[s for row in self.prompts for s in row])
        classes = zero_shot.class_embeddings(np.asarray(embedded).reshape(len(self.prompts), len(self.prompts[0]), -1))
        labels = np.asarray(model.column(self.label, self.split))
        found = {}
        for query, name in (("speech", self.name), ("text", f"{self.name} of transcripts")):
            measured = zero_shot.zero_shot_metrics(model.embed_split(query, self.split), classes, labels)
            found[f"{name} accuracy"] = measured["accuracy"]
        return found
