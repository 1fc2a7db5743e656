"""4M over the learnt tokens of 64 x 64 scenes: what its sizes start from."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from configs.masked.fourm_scenes import tokenizers
from configs.masked.fourm_scenes.mixtures import FIRST, LAST, SECOND, TEXTS
from configs.masked.fourm_scenes.tokenizers import SERIAL
from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Pretrained, Tokenizer, Train
from mmrep.data import serialise
from mmrep.modality import Modality
from mmrep.systems.masked.fourm import BASE, Config
from mmrep.systems.masked.fourm.judged import CaptionFacts, DecodedMaps, DrawnFacts
from mmrep.systems.masked.fourm.panels import Panels
from mmrep.systems.masked.fourm.schedules import Guidance, Target
from mmrep.systems.masked.fourm.tokens import token_modality

VOCAB, CAPTION = 192, 12
RATE = Optim(lr=2e-3, schedule="constant", warmup=200, weight_decay=0.02, b2=0.95)
STEPS = 11_600, 5_000, 9_000  # of the three phases


def texts(vocab: int = VOCAB) -> tuple[Modality, ...]:
    """Each begins with a BOS, which 4M leaves out."""
    return (
        modality.text("caption", 1 + CAPTION, vocab), modality.text("boxes", 12, vocab, field="detections"),
        modality.text("palette", 3 + 3 * SERIAL.palette, vocab),
    )  # fmt: skip


def pixels(size: int = 64, patch: int = 8) -> Modality:
    """The pictures as 4M's input-only modality: patches of pixels, projected. Their contrast is low, so they are standardised by their own."""
    rgb = tokenizers.maps(size, patch)[0]
    return replace(rgb, name="pixels", field="rgb")


def data(parts: Sequence[Modality], n_train: int = 60_000, n_eval: int = 400, batch: int = 32) -> Data:
    source = tokenizers.scenes(
        tuple(dict.fromkeys(m.source for m in parts)), n_train, n_eval, parts[0].size[0], tokenizers.WHITE
    )
    words = Tokenizer(VOCAB, kind="word", symbols=serialise.symbols(SERIAL))
    return Data(source, tuple(parts), words, batch_size=batch, eval_batch_size=100)


def system(
    parts: Sequence[Modality], learnt: Mapping[str, Experiment], *, width: int = 128, depth: int = 3, heads: int = 4,
    **settings: Any,
) -> Config:  # fmt: skip
    """learnt: the experiments of the tokenizers by modality."""
    transformer = replace(BASE, width=width, depth=depth, heads=heads)
    sizes = {"num_input_tokens": 80, "num_target_tokens": 80} | settings
    codes = {name: e.system.vocab for name, e in learnt.items()}
    tokens = tuple(token_modality(m, vocab_size=codes.get(m.name, 0)) for m in parts)
    own = tuple((name, e.system) for name, e in learnt.items())
    return Config(
        tokens, LAST, encoder=transformer, decoder=transformer, position_base=10.0, embedding_std=0.5,
        decoder_embedding_std=0.1, tokenizers=own, **sizes,
    )  # fmt: skip


def trained(learnt: Mapping[str, Experiment]) -> tuple[Pretrained, ...]:
    """Each trained tokenizer, into the extras of 4M."""

    def parts(name: str) -> tuple[tuple[str, str], ...]:
        place = f"extras/tokenizers/{name}"
        return (("", f"{place}/params/"), ("extras/", f"{place}/extras/"))

    return tuple(Pretrained(e, parts(name)) for name, e in learnt.items())


def drawn(name: str, through: Sequence[str] = (), scale: float = 1.0, steps: int = 12, limit: int = 200) -> DrawnFacts:
    """Pictures from captions, at once or `through` other modalities."""
    guidance = (Guidance(("caption",), scale),) if scale != 1.0 else ()

    def target(part: str) -> Target:
        scheme = "autoregressive" if part in TEXTS else "roar"
        return Target(part, scheme, steps, temperature=0.3, guidance=guidance)  # type: ignore[arg-type]

    return DrawnFacts(tuple(target(n) for n in (*through, "rgb")), name, limit)


CHAIN = "boxes", "semseg"
EVALS = (
    DecodedMaps(("pixels",), ("semseg", "depth", "normals")),
    CaptionFacts(("pixels",)),
    drawn("caption->rgb"),
    drawn("caption->rgb, one step", steps=1),
    drawn("caption->rgb, guidance 2", scale=2.0),
    drawn("caption->boxes->semseg->rgb", CHAIN),
    drawn("caption->boxes->semseg->rgb, guidance 2", CHAIN, 2.0),
)


def small() -> Experiment:
    parts = pixels(), *tokenizers.maps(), *texts()
    learnt = {m.name: tokenizers.tokenizer(m) for m in tokenizers.maps()}
    whole = system(parts, learnt)
    phases = (
        Phase("slow", STEPS[0], system=replace(whole, mixtures=FIRST), start=trained(learnt)),
        Phase("classes", STEPS[1], system=replace(whole, mixtures=SECOND)),
        Phase("all", STEPS[2], optim=replace(RATE, schedule="cosine", final=0.02)),
    )
    train = Train(ema=0.998, log_every=50, checkpoint_minutes=3)
    return Experiment(whole, data(parts), phases, RATE, (*EVALS, Panels()), train)


def tiny() -> Experiment:
    maps = tokenizers.maps(16, 4)
    parts = pixels(16, 4), *maps, *texts()
    learnt = {m.name: tokenizers.tiny(m) for m in maps}
    sizes = {"num_input_tokens": 12, "num_target_tokens": 12}
    few = replace(data(parts, n_train=64, n_eval=24, batch=8), eval_batch_size=8)
    evals = (
        DecodedMaps(("pixels",), ("semseg", "depth"), limit=8), CaptionFacts(("pixels",), limit=4),
        replace(drawn("drawn", CHAIN, 2.0, steps=2, limit=4), fit=64),
    )  # fmt: skip
    phase = Phase(steps=4, start=trained(learnt))
    model = system(parts, learnt, width=32, depth=1, heads=2, **sizes)
    return Experiment(model, few, (phase,), Optim(lr=1e-3), evals, Train(log_every=2))
