"""4M's sizes: a tiny one for tests, the published ones, and one to time."""

from dataclasses import replace

from configs.masked import _fourm_shared as shared
from configs.masked.fourm.base import ALL_TO_ALL, FROM_PIXELS, SMALL, data, guided
from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Rule, Tokenizer, Train
from mmrep.systems.masked.fourm import BASE, Config
from mmrep.systems.masked.fourm.evals import GenerationAccuracy, TokenAccuracy
from mmrep.systems.masked.fourm.masking import DirichletMixture, alphas
from mmrep.systems.masked.fourm.panels import Panels
from mmrep.systems.masked.fourm.tokens import token_modality


def tiny() -> Experiment:
    parts = shared.modalities(16, caption=12)
    system = shared.small_system(
        shared.token_modalities(parts), SMALL.mixtures, width=32, num_input_tokens=12, num_target_tokens=12
    )
    evals = (
        TokenAccuracy(("pixels",), ("depth", "caption"), limit=8),
        GenerationAccuracy(("caption",), guided(2.0, steps=2), "made", limit=4, fit=16),
        Panels(),
    )
    few = replace(data(parts, n_train=64, n_eval=24, batch=8), eval_batch_size=8)
    return Experiment(system, few, (Phase(steps=4),), Optim(lr=1e-3), evals, Train(log_every=2))


PAPER_TOKENS: dict[str, dict] = {
    "rgb": {"bins": (25, 25, 25), "vocab_size": 16384}, "depth": {"bins": (8192,)},
    "normals": {"bins": (20, 20, 20), "vocab_size": 8192}, "semseg": {"vocab_size": 4096},
}  # fmt: skip


def paper(width: int = 768, depth: int = 12, heads: int = 12, lr: float = 3.2e-3) -> Experiment:
    """4M-7 without boxes and features, for which the synthetic scenes have no tokenizer here."""
    parts = shared.modalities(224, patch=16, vocab=30_000, caption=256)
    tokens = tuple(token_modality(m, **PAPER_TOKENS.get(m.name, {})) for m in parts)
    transformer = replace(BASE, width=width, depth=depth, heads=heads, scan=True, remat=True)
    system = Config(tokens, (FROM_PIXELS, ALL_TO_ALL), encoder=transformer, decoder=transformer, dtype="bfloat16")
    optim = Optim(lr=lr, warmup=4_800, weight_decay=0.05, b2=0.95, clip=None)
    scenes = data(parts, n_train=12_000_000, n_eval=5000, batch=8192)
    return Experiment(system, scenes, (Phase(steps=238_000),), optim, sharding=(Rule(".*", "fsdp"),))


def large() -> Experiment:
    return paper(width=1024, depth=24, heads=16)


def xlarge() -> Experiment:
    return paper(width=2048, depth=24, heads=32, lr=6.4e-4)


def bench(modalities: int, vocab: int = 2048, words: int = 4096) -> Experiment:
    """Class maps of 8 x 8 ids and a caption at equal budgets: the time of a step must not depend on the number of modalities."""
    maps = [modality.label_map(f"map{i}", 8, vocab) for i in range(modalities - 1)]
    parts = (*maps, modality.text("caption", 33, words))
    even = alphas([m.name for m in parts])
    transformer = replace(BASE, width=192, depth=6, heads=3)
    system = Config(
        tuple(token_modality(m) for m in parts), (DirichletMixture(even, even),), num_input_tokens=64, num_target_tokens=64,
        encoder=transformer, decoder=transformer,
    )  # fmt: skip
    # Timed on random ids: the records are not used.
    whole = Data(shared.scenes(32, 256, 8), parts, Tokenizer(words, kind="word"), batch_size=32, eval_batch_size=100)
    return Experiment(system, whole, (Phase(steps=20),), Optim(lr=1e-4, b2=0.95, clip=None))
