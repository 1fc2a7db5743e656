"""How well the feature of a hidden part of a picture is completed, from the rest and a caption."""

from dataclasses import dataclass

import numpy as np
from sklearn.preprocessing import normalize

from mmrep.model import Model


@dataclass(frozen=True)
class Hidden:
    """Share of hidden things, in [0, 1], whose completed feature is nearest, among all tokens of the first `most` pictures, to one of its kind.

    kinds: a record field, the kind at each image token, -1 for none.   caption, other: fields of the true caption and of another record's.
    Metrics: "hidden true", "hidden other", and "hidden chance" of a random token.
    """

    kinds: str = "kinds"
    caption: str = "caption"
    other: str = "other"
    most: int = 200
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        rows = lambda x: normalize(x.reshape(-1, x.shape[-1]))  # noqa: E731
        kinds = np.stack(model.column(self.kinds, self.split))[: self.most].reshape(-1)
        true = (("text", self.caption),)
        teacher = rows(model.embed_split("joint_image", self.split, true)[: self.most])
        found = {"hidden chance": float(np.mean(kinds[kinds >= 0][:, None] == kinds))}
        for name, field in (("true", self.caption), ("other", self.other)):
            student = rows(model.embed_split("completed", self.split, (("text", field),))[: self.most])
            nearest = kinds[(student[kinds >= 0] @ teacher.T).argmax(1)]
            found[f"hidden {name}"] = float((nearest == kinds[kinds >= 0]).mean())
        return found
