"""The parts of UnIVAL's experiments: modalities, stages, and the model at a width."""

from dataclasses import replace
from typing import Any

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Tokenizer, Train
from mmrep.data.rooms import Rooms
from mmrep.modality import Modality
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.decoder_lm import DecoderLM
from mmrep.systems.fusion.unival import Config
from mmrep.systems.fusion.unival.data import Tasks
from mmrep.systems.fusion.unival.evals import TaskAnswers

TASKS = ("caption", "question", "ground")


def parts(
    system: Config, size: int, frames: int = 0, samples: int = 0, rate: int = 4000, answer: int = 0
) -> tuple[Modality, ...]:
    """Prompts and answers, and the modalities that the system has encoders for."""
    vocab, long, short = system.decoder.vocab, system.prompt, answer or system.decoder.length
    found = {
        "image": modality.image("image", size), "video": modality.video("video", max(frames, 1), size),
        "sound": modality.audio("sound", max(samples, 1), rate),
    }  # fmt: skip
    texts = (("prompt", long), ("answer", short), ("match_prompt", long), ("match_answer", 4))
    shown = modality.label("shown", 3)
    return *(found[n] for n in system.encoders), *(modality.text(n, length, vocab) for n, length in texts), shown


def rooms(
    system: Config, source: Any, of: Rooms, *, stages: tuple[tuple[tuple[str, ...], int], ...], batch: int, lr: float = 1e-3, bins: int = 16,
    tasks: tuple[str, ...] = TASKS, **settings: Any,
) -> Experiment:  # fmt: skip
    """Each stage trains the modalities that it names."""
    names = tuple(f"k{k:02d}" for k in range(of.kinds))
    data = [Tasks(source, used, tasks, bins=bins, names=names) for used, _ in stages]
    phases = tuple(
        Phase("and ".join(used), steps, data=own, system=replace(system, modalities=used))
        for own, (used, steps) in zip(data, stages)
    )  # fmt: skip
    last = stages[-1][0]
    evals = tuple(TaskAnswers(tasks, fields=(("shown", f"shown_{n}"),), name=n if len(last) > 1 else "") for n in last)
    words = Tokenizer(system.decoder.vocab, "word", symbols=tuple(f"<bin_{i}>" for i in range(bins)))
    here = parts(system, of.grid * of.cell, of.frames, of.grid**2 * of.slot, of.rate)
    options = {"optim": Optim(lr=lr, warmup=min(100, stages[0][1] // 10)), "train": Train(log_every=50)} | settings
    return Experiment(
        replace(system, modalities=last), Data(data[-1], here, words, batch_size=batch, eval_batch_size=100), phases=phases, evals=evals, **options,
    )  # fmt: skip


def model(width: int, depth: int, vocab: int, length: int, heads: int = 4, **encoders: Any) -> Config:
    shape = TransformerConfig(width=width, depth=depth, heads=heads)
    return Config(encoder=shape, decoder=DecoderLM(shape, vocab, length, cross=True), prompt=14, **encoders)
