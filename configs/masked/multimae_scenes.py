"""MultiMAE over 64 x 64 scenes: colour, depth and classes from one another, any of them missing (Bachmann et al., ECCV 2022)

Multi-modal multi-task masked autoencoders, arXiv 2204.01678. The world of `fourm_scenes`, on tinted grounds too; its maps are predicted in one
step, as numbers.
    python -m experiments.train multimae_scenes
    python -m experiments.export multimae_scenes                     one file for mmrep/assets, and its card
In Python: `model.call("reconstruct", rgb=pictures)["depth"]`. Columns of a Table or Folder: rgb, depth, semseg.
"""

from dataclasses import replace

from configs.masked.fourm_scenes.tokenizers import maps, scenes
from mmrep.config import Data, Experiment, Optim, Phase, Train
from mmrep.evals.dense import CrossPrediction, EverySubset
from mmrep.modality import Modality
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import dense
from mmrep.systems.masked.multimae import Config, Task

SIZES = ("tiny", "small")
NAMES = ("rgb", "depth", "semseg")
TASKS = (Task("rgb"), Task("depth", "l1"), Task("semseg", "ce"))
LIMITS = """
It was trained on synthetic scenes alone: one or two plain objects of six shapes and six colours on a pale ground, 64 x 64 pixels. It knows
this world only: what it predicts for a photograph means nothing.
"""


def system(parts: tuple[Modality, ...], visible: int, encoder: TransformerConfig, decoder: TransformerConfig) -> Config:
    """Subsets of the maps are as likely to be visible as all of them."""
    return Config(
        tuple(dense(m, class_dim=16) for m in parts), TASKS, num_encoded_tokens=visible, sample_tasks_uniformly=True,
        encoder=encoder, decoder=decoder, position_base=10.0,
    )  # fmt: skip


def data(parts: tuple[Modality, ...], n_train: int = 20_000, n_eval: int = 400, batch: int = 32) -> Data:
    source = scenes(NAMES, n_train, n_eval, parts[0].size[0])
    return Data(source, parts, batch_size=batch, eval_batch_size=100)


def small(steps: int = 12_000) -> Experiment:
    parts = tuple(m for m in maps() if m.name in NAMES)
    encoder = TransformerConfig(width=128, depth=3, heads=4, epsilon=1e-6)
    model = system(parts, 64, encoder, replace(encoder, width=96, depth=1))
    evals = *(CrossPrediction(m) for m in model.maps[:2]), EverySubset(model.maps)
    optim = Optim(lr=1.5e-3, schedule="constant", warmup=200, weight_decay=0.05, b2=0.95)
    return Experiment(model, data(parts), (Phase(steps=steps),), optim, evals, Train(ema=0.998, log_every=50))


def tiny() -> Experiment:
    parts = tuple(m for m in maps(16, 4) if m.name in NAMES)
    encoder = TransformerConfig(width=32, depth=1, heads=2, epsilon=1e-6)
    model = system(parts, 12, encoder, replace(encoder, width=16))
    few = replace(data(parts, 64, 24, 8), eval_batch_size=8)
    evals = (CrossPrediction(model.maps[1], limit=16),)
    return Experiment(model, few, (Phase(steps=4),), Optim(lr=1e-3), evals, Train(log_every=2))


def get_config(size: str = "small") -> Experiment:
    return {"tiny": tiny, "small": small}[size]()
