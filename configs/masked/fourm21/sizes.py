"""4M-21's sizes: a tiny one for tests and the published one."""

from collections.abc import Sequence
from dataclasses import replace

from configs.masked import _fourm_shared as shared
from configs.masked.fourm21.base import NAMES, SHARED, TOKENS, WITH_WORDS, data, mixtures, modalities, token_modalities
from mmrep.config import Experiment, Optim, Phase, Rule, Train
from mmrep.systems.masked.fourm import BASE, Config
from mmrep.systems.masked.fourm.panels import Panels
from mmrep.systems.masked.fourm.steering import PredictedRetrieval


def tiny(names: Sequence[str] = NAMES) -> Experiment:
    parts = modalities(16, caption=12)
    system = shared.small_system(
        token_modalities(names, parts), mixtures(names), width=32, num_input_tokens=24, num_target_tokens=24
    )
    few = replace(data(names, parts, n_train=64, n_eval=24, batch=8), eval_batch_size=8)
    evals = (
        replace(SHARED, targets=("depth", "detections"), limit=8),
        PredictedRetrieval(("depth",), limit=16),
        Panels(),
    )
    return Experiment(system, few, (Phase(steps=4),), Optim(lr=1e-3), evals, Train(log_every=2))


PAPER_TOKENS = TOKENS | {
    "rgb": {"bins": (25, 25, 25), "vocab_size": 16384}, "depth": {"bins": (8192,)},
    "normals": {"bins": (20, 20, 20), "vocab_size": 8192}, "edges": {"bins": (8192,)},
}  # fmt: skip


def paper() -> Experiment:
    """4M-21 XL over the modalities that the synthetic scenes have."""
    parts = modalities(224, patch=16, vocab=30_000, caption=256)
    transformer = replace(BASE, width=2048, depth=24, heads=32, scan=True, remat=True)
    system = Config(
        token_modalities(WITH_WORDS, parts, PAPER_TOKENS), mixtures(WITH_WORDS), num_input_tokens=256, num_target_tokens=256,
        encoder=transformer, decoder=transformer, dtype="bfloat16",
    )  # fmt: skip
    optim = Optim(lr=2e-5 * 4096 / 256, warmup=4_800, weight_decay=0.05, b2=0.95, clip=3.0)
    scenes = data(WITH_WORDS, parts, n_train=12_000_000, n_eval=5000, batch=4096)
    return Experiment(system, scenes, (Phase(steps=238_000),), optim, sharding=(Rule(".*", "fsdp"),))
