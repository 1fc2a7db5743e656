"""Predictions of what is hidden, with the example's own other modality or that of another example."""

from dataclasses import dataclass

import numpy as np

from mmrep.data import pipeline
from mmrep.modality import FIRST_PIECE
from mmrep.model import Model
from mmrep.systems.masked.lxmert.model import BOX


@dataclass(frozen=True)
class Hidden:
    """Accuracy, in [0, 1], of each label of each object, and of each word, while it alone is hidden; and the same with another example.

    labels: batch entries of the objects' labels.   words: the only words that count; empty: all pieces but the special ones.
    Metrics: "hidden attributes", "hidden words", and "..., other text", "..., other image" with that of the batch's next record.
    """

    labels: tuple[str, ...] = ("classes", "attributes")
    words: tuple[str, ...] = ()
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        found: dict[str, list[np.ndarray]] = {}
        for batch, real in pipeline.eval_batches(model.split(self.split), model.data.eval_batch_size):
            for end, text, image in (
                ("", "text", "image"),
                (", other text", "_", "image"),
                (", other image", "text", "_"),
            ):
                # The last batch is filled up by its last record, which no real row takes.
                other = np.roll(np.arange(real), 1)
                given = {k: v[:real] if k in (text, image) else v[:real][other] for k, v in batch.items()}
                given = {
                    k: np.concatenate([v, np.repeat(v[-1:], len(batch[k]) - real, axis=0)]) for k, v in given.items()
                }
                given = {k: given[k] for k in ("text", "image")}
                if text == "text" or not end:
                    right = np.asarray(model.infer("hidden_words", given))[:real] > 0
                    found.setdefault(f"hidden words{end}", []).append(right[self._counted(model, given["text"][:real])])
                if image == "image":
                    logits = model.infer("hidden_objects", given)
                    box = batch["image"][:real, :, -BOX:]
                    seen = (box[..., 2] > box[..., 0]) & (box[..., 3] > box[..., 1])
                    for name in self.labels:
                        right = np.asarray(logits[name])[:real].argmax(-1) == batch[name][:real]
                        found.setdefault(f"hidden {name}{end}", []).append(right[seen])
        return {name: float(np.concatenate(parts).mean()) for name, parts in found.items()}

    def _counted(self, model: Model, ids: np.ndarray) -> np.ndarray:
        if not self.words:
            return ids >= FIRST_PIECE
        return np.isin(ids, [i for i in np.unique(model.tokenizer(self.words)) if i >= FIRST_PIECE])
