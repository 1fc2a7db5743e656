"""Answers of every task, and the task that suffers most."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from mmrep.evals.written import agreement
from mmrep.model import Fields, Model


@dataclass(frozen=True)
class TaskAnswers:
    """Share of exact answers in [0, 1] to each task's prompts, "<task> exact", and of all tasks "worst task" and "mean of tasks".

    "<task> commonest" is the share of its most frequent answer, and "mean of commonest" their mean.

    Records have <task>_prompt and <task>_answer, as those of `Tasks` have.   fields: of other modalities, say (("shown", "shown_sound"),).
    """

    tasks: tuple[str, ...]
    split: str = "test"
    fields: Fields = ()
    name: str = ""

    def run(self, model: Model) -> dict[str, float]:
        found: dict[str, float] = {}
        commonest: dict[str, float] = {}
        for task in self.tasks:
            fields = (("prompt", f"{task}_prompt"), *self.fields)
            ids = np.asarray(model.embed_split("written", self.split, fields))
            answers = [str(a) for a in model.column(f"{task}_answer", self.split)]
            truth = model.tokenizer(answers, "answer")
            commonest[f"{task} commonest"] = max(Counter(answers).values()) / len(answers)
            found[f"{task} exact"] = agreement(ids, truth)["exact"]
        values = list(found.values())
        found |= {"worst task": min(values), "mean of tasks": float(np.mean(values))}
        found |= commonest | {"mean of commonest": float(np.mean(list(commonest.values())))}
        return {f"{self.name} {k}".strip(): v for k, v in found.items()}
