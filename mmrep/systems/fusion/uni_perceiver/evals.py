"""Names that classification has never used, and captions word by word."""

from dataclasses import dataclass

import numpy as np

from mmrep.model import Model


@dataclass(frozen=True)
class Names:
    """Accuracy in [0, 1] of infer["name_logits"]: of seen names among all, of `unseen` ones among all ("unseen"), and of these among themselves
    ("among unseen"), with its chance."""

    unseen: tuple[int, ...]
    label: str = "label"
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        logits = np.asarray(model.embed_split("name_logits", self.split))
        labels = np.asarray(model.column(self.label, self.split))
        new = np.isin(labels, self.unseen)
        right = logits.argmax(1) == labels
        found = {"names seen": float(right[~new].mean())}
        if self.unseen and new.any():
            among = np.asarray(self.unseen)[logits[new][:, self.unseen].argmax(1)] == labels[new]
            found |= {"names unseen": float(right[new].mean()), "names among unseen": float(among.mean())}
            found["names among unseen chance"] = 1 / len(self.unseen)
        return found


@dataclass(frozen=True)
class Written:
    """Share of right words in [0, 1], EOS included: "forced", each predicted from the true words before it, and "written", from left to right."""

    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        return {name: float(np.mean(model.embed_split(name, self.split))) for name in ("forced", "written")}
