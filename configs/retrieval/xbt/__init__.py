"""XBT: a new model's queries on an old model's stored gallery, compatible from texts alone and few pairs (Jang and Lim, ICCV 2025).

python -m experiments.train xbt --size small
python -m experiments.prove xbt

A user's own Table or Folder needs an image and its caption in each record; the old and the new model are two experiments, or weights files
(Pretrained(file=...)) in the phases' `start`.
"""

from configs.retrieval.xbt import base, proof, sizes
from mmrep.config import Experiment, Proof

SIZES = ("tiny", "small", "paper")


def get_config(size: str = "small") -> Experiment:
    return {"tiny": sizes.tiny, "small": base.small, "paper": sizes.paper}[size]()


def get_proof() -> Proof:
    return proof.xbt()
