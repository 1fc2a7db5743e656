"""Answers of every task, and the task that suffers most."""

from dataclasses import dataclass

import numpy as np

from mmrep.evals.written import agreement
from mmrep.model import Fields, Model


@dataclass(frozen=True)
class TaskAnswers:
    """Share of exact answers in [0, 1] to each task's prompts, "<task> exact", and of all tasks "worst task" and "mean of tasks".

    Records have <task>_prompt and <task>_answer, as those of `Tasks` have.   fields: of other modalities, say (("shown", "shown_sound"),).
    """

    tasks: tuple[str, ...]
    split: str = "test"
    fields: Fields = ()
    name: str = ""

    def run(self, model: Model) -> dict[str, float]:
        found = {}
        for task in self.tasks:
            fields = (("prompt", f"{task}_prompt"), *self.fields)
            ids = np.asarray(model.embed_split("written", self.split, fields))
            truth = model.tokenizer(model.column(f"{task}_answer", self.split), "answer")
            found[f"{task} exact"] = agreement(ids, truth)["exact"]
        values = list(found.values())
        found |= {"worst task": min(values), "mean of tasks": float(np.mean(values))}
        return {f"{self.name} {k}".strip(): v for k, v in found.items()}
