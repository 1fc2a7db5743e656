"""1-to-K: one picture contrasted with its texts in K languages at once, CCR_k (Nie et al., KDD 2024)

Improving the Consistency in Cross-Lingual Cross-Modal Retrieval with 1-to-K Contrastive Learning, arXiv 2406.18254.
    python -m experiments.train one_to_k
    python -m experiments.prove one_to_k
    python -m experiments.train one_to_k --variant stamps      # Tux Paint's stamps with sentences in six languages, where they are installed
On your own data: --data.source a Table with the columns image and one text column a language, text=("english", "german", ...), and a text
modality for each column; rows without a language need a column `present` of 0 and 1 and system.present.
"""

from configs.contrastive.one_to_k import base
from configs.contrastive.one_to_k.proof import get_proof
from mmrep.config import Experiment
from mmrep.errors import ConfigError

SIZES = ("tiny", "small", "paper")
VARIANTS = ("stamps",)


def get_config(size: str = "small", variant: str = "") -> Experiment:
    if variant and size != "small":
        raise ConfigError(f"variant is {variant!r} of size {size}: choose size small")
    if variant:
        return base.stamps()
    return {"tiny": base.tiny, "small": base.small, "paper": base.paper}[size]()


__all__ = ["SIZES", "VARIANTS", "get_config", "get_proof"]
