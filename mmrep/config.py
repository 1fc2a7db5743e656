"""The vocabulary of experiments: frozen, typed, printable, comparable dataclasses, and their way to and from JSON."""

import dataclasses
import hashlib
import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mmrep import limits
from mmrep.errors import ConfigError, near
from mmrep.modality import Modality


@dataclass(frozen=True)
class Tokenizer:
    """sentencepiece, trained on the source's own training text; cached and versioned by the hash of text and settings. Or the tokenizer
    that others published with their weights.

    vocab: number of ids, the five special ones and 256 byte pieces included.
    kind: unigram | bpe | char | word; published: that of the folder of weights (see `mmrep.data.published`), which ignores the other fields.
    lower: case-fold the text first.
    symbols: words that are one id each, whatever the training text holds ("v0=12" and its like, see `mmrep.data.serialise`).
    sources: whose training texts it is fitted to, in place of the data's own: those of the model that this one starts from, so that a word
             keeps its id.
    """

    vocab: int = 2048
    kind: Literal["unigram", "bpe", "char", "word", "published"] = "unigram"
    lower: bool = True
    symbols: tuple[str, ...] = ()
    sources: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Data:
    """What the batches are made of. `source` is any frozen dataclass with open(split), texts(split) and view(record, rng)."""

    source: Any
    modalities: tuple[Modality, ...]
    tokenizer: Tokenizer | None = None
    batch_size: int = 64
    eval_batch_size: int = 256
    max_bad_records: int = 0
    workers: int = 1
    prefetch: int = 3


@dataclass(frozen=True)
class Optim:
    """An optax chain. `lr` is the peak; `warmup` and decay count the phase's steps; weight decay skips vectors and scalars.

    layer_decay: each layer's rate as a share of the one above it, for fine-tuning (see mmrep.training.optim.by_layer).
    factors: (regex, factor): the rate of parameters whose path the regex matches whole, times the factor, e.g. (("image/.*", 0.2),);
        the first match counts, other paths keep the rate.
    """

    name: Literal["adamw", "lamb", "lion", "sgd", "adafactor"] = "adamw"
    lr: float = 1e-3
    schedule: Literal["cosine", "linear", "constant", "rsqrt"] = "cosine"
    warmup: int = 0
    final: float = 0.0
    weight_decay: float = 1e-2
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-8
    clip: float | None = 1.0
    layer_decay: float = 1.0
    factors: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Pretrained:
    """Parameters of another experiment, or of a file.

    experiment: trained on demand, cached by the fingerprint of its config, never trained twice.
    file:  what `Model.save` wrote, or published weights that `mmrep.interop` recognises; in place of the experiment.
    parts: (path prefix there, path prefix here), e.g. (("text/", "teacher/"),); ("", "") takes the whole tree.
           A prefix that begins with "extras/" means the extras, there or here: (("extras/codebook/", "extras/codebook/"),).
    follow_seed: in a proof it is trained anew for each seed, with it; otherwise every seed starts from the same one.
    """

    experiment: Any = None
    parts: tuple[tuple[str, str], ...] = (("", ""),)
    follow_seed: bool = False
    file: str = ""

    def __post_init__(self) -> None:
        if (self.experiment is None) == (not self.file):
            raise ConfigError("Pretrained takes an experiment or a file, one of them")


@dataclass(frozen=True)
class Phase:
    """One stretch of training, or a plain function.

    start:     pretrained parts put in place at the start of the phase; everything else goes on from the phase before.
    data:      another source than `data.source` (same modalities).
    trainable: regexes on parameter paths ("image/.*"); the rest is split off before value_and_grad.
    system:    another system config over the same params (its own loss), e.g. dataclasses.replace(system, objective=...).
    optim:     this phase's optimiser; the optimiser state starts anew with each phase.
    begin:     (params, extras) -> (params, extras) at the start of the phase, e.g. take a teacher's snapshot.
    run:       (params, extras, mmrep.training.loop.Context) -> (params, extras) instead of gradient steps (k-means, a
               closed-form solver, re-indexing); counts as one step.
    """

    name: str = "train"
    steps: int = 1000
    data: Any = None
    trainable: tuple[str, ...] = (".*",)
    system: Any = None
    optim: Optim | None = None
    start: tuple[Pretrained, ...] = ()
    begin: Any = None
    run: Any = None


@dataclass(frozen=True)
class Train:
    """How the loop runs; nothing here changes what is learnt except seed, ema, accumulate and spike.

    ema: decay of the averaged parameters used by evaluation (0 = off).
    accumulate: micro-batches a step; gradients are averaged, so in-batch negatives are those of a micro-batch.
    checkpoint_minutes: a checkpoint after so much time since the last one, beside those of checkpoint_every (0 = off).
    max_skips: consecutive non-finite steps (their update is skipped) before the run stops.
    spike: an update whose loss lies more than this many standard deviations above its running mean is skipped (0 = off).
    """

    seed: int = 0
    ema: float = 0.0
    accumulate: int = 1
    log_every: int = 20
    eval_every: int = 0
    checkpoint_every: int = 0
    checkpoint_minutes: float = 5.0
    keep_checkpoints: int = 2
    max_skips: int = 10
    spike: float = 0.0


@dataclass(frozen=True)
class Mesh:
    """Devices a mesh axis; -1 takes what is left. `data` splits the batch (and, by rule, parameters: fsdp), `model` is tensor parallel.

    fsdp: above 1, a third axis between them (hybrid sharding): the batch is split over data x fsdp, parameters over fsdp alone and
    repeated along data, so that they are gathered within a host and only gradients cross between hosts.
    """

    data: int = -1
    model: int = 1
    fsdp: int = 1


@dataclass(frozen=True)
class Rule:
    """Sharding of the parameters whose path matches `path` (first match wins); moments, EMA and extras of that path follow.

    how: replicate | fsdp (largest divisible dim over `axis`, or over the mesh axis fsdp where there is one; arrays below `min_size` values
         stay whole) | shard_dim (`dim` over `axis`).
    """

    path: str
    how: Literal["replicate", "fsdp", "shard_dim"] = "replicate"
    axis: str = "data"
    dim: int = -1
    min_size: int = 2**16


@dataclass(frozen=True)
class Experiment:
    """Everything a run is: equal experiments give equal runs."""

    system: Any
    data: Data
    phases: tuple[Phase, ...] = (Phase(),)
    optim: Optim = Optim()
    evals: tuple[Any, ...] = ()
    train: Train = Train()
    mesh: Mesh = Mesh()
    sharding: tuple[Rule, ...] = (Rule(".*", "replicate"),)

    def __post_init__(self) -> None:
        if not self.phases:
            raise ConfigError("phases is empty: give at least one Phase")
        for p in self.phases:
            if p.steps < 1:
                raise ConfigError(f"phases[{p.name!r}].steps is {p.steps}: it must be at least 1")
        _check_ranges(self)
        if self.data.batch_size % self.train.accumulate:
            raise ConfigError(
                f"data.batch_size {self.data.batch_size} is not a multiple of train.accumulate {self.train.accumulate}"
            )
        systems = [("system", self.system)]
        systems += [(f"phases.{i}.system", p.system) for i, p in enumerate(self.phases) if p.system is not None]
        for place, system in systems:
            limits.check_numbers(system, place)
            limits.check_tables(system, place, self.data.modalities)
        names = [m.name for m in self.data.modalities]
        if len(set(names)) < len(names):
            raise ConfigError(f"data.modalities names are not unique: {', '.join(names)}")
        worded = [m for m in self.data.modalities if m.kind in ("text", "texts")]
        if worded:
            if self.data.tokenizer is None:
                raise ConfigError("data.tokenizer is not set, but data.modalities has text")
            for m in worded:
                if m.vocab < self.data.tokenizer.vocab:
                    raise ConfigError(
                        f"modality {m.name!r}: vocab {m.vocab} is smaller than data.tokenizer.vocab {self.data.tokenizer.vocab}"
                    )

    @property
    def steps(self) -> int:
        return sum(1 if p.run else p.steps for p in self.phases)

    @property
    def sources(self) -> tuple[Any, ...]:
        """The data source and those of phases with data of their own, each once: one tokenizer is fitted to the texts of all."""
        every = (self.data.source, *(p.data for p in self.phases if p.data is not None))
        return tuple({fingerprint(s): s for s in every}.values())

    def phase_at(self, step: int) -> tuple[int, int]:
        """(index of the phase that step number `step`, counted from 0, belongs to; the step it starts at)."""
        start = 0
        for i, p in enumerate(self.phases):
            end = start + (1 if p.run else p.steps)
            if step < end or i == len(self.phases) - 1:
                return i, start
            start = end
        raise AssertionError("unreachable: phases is not empty")


# The least value of each number of an experiment; those of _BELOW stay below 1, too.
_LEAST: Mapping[str, float] = {
    "data.batch_size": 1, "data.eval_batch_size": 1, "data.max_bad_records": 0, "data.workers": 0, "data.prefetch": 0,
    "data.tokenizer.vocab": 1, "train.seed": 0, "train.ema": 0, "train.accumulate": 1, "train.log_every": 1, "train.eval_every": 0,
    "train.checkpoint_every": 0, "train.checkpoint_minutes": 0, "train.keep_checkpoints": 1, "train.max_skips": 1, "train.spike": 0, "optim.lr": 0, "optim.warmup": 0,
    "optim.final": 0, "optim.weight_decay": 0, "optim.b1": 0, "optim.b2": 0, "optim.eps": 0, "optim.clip": 0, "mesh.model": 1,
    "mesh.fsdp": 1,
}  # fmt: skip
_BELOW = ("train.ema", "optim.b1", "optim.b2")


def _check_ranges(experiment: "Experiment") -> None:
    """Raises ConfigError for the first number that is out of its range or not finite."""
    numbers: list[tuple[str, str, Any, float]] = [(name, name, experiment, least) for name, least in _LEAST.items()]
    for i, phase in enumerate(experiment.phases):
        numbers += [(f"phases.{i}.{n}", n, phase, least) for n, least in _LEAST.items() if n.startswith("optim.")]
    for where, name, value, least in numbers:
        for step in name.split("."):
            value = None if value is None else getattr(value, step)
        if value is None or (least <= value < (1 if name in _BELOW else math.inf)):
            continue
        above = f"at least {least:g} and below 1" if name in _BELOW else f"finite and at least {least:g}"
        raise ConfigError(f"{where} is {value}: it must be {above}")
    if not (experiment.mesh.data == -1 or 1 <= experiment.mesh.data < math.inf):
        raise ConfigError(f"mesh.data is {experiment.mesh.data}: give a number of devices, or -1 for all that are left")


@dataclass(frozen=True)
class Arm:
    """One way to get a number: an experiment to train and evaluate, or a function seed -> {metric: value}."""

    name: str
    experiment: Experiment | None = None
    run: Callable[[int], Mapping[str, float]] | None = None


@dataclass(frozen=True)
class Expect:
    """`better` exceeds `worse` by `margin` on average, and on every seed by more than 0.

    Each side is "arm" (the proof's metric), "arm/metric", or a number. `headline` expectations decide the verdict; the others are reported.
    slack: how much worse than `worse` the better side may be, for a claim that nothing is lost.
    """

    better: str | float
    worse: str | float
    margin: float = 0.0
    statement: str = ""
    headline: bool = True
    slack: float = 0.0


@dataclass(frozen=True)
class Proof:
    """A controlled experiment that could fail. Its verdict is computed by `experiments.prove` from `expects` alone."""

    claim: str
    metric: str
    arms: tuple[Arm, ...]
    expects: tuple[Expect, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    data: str = "synthetic scenes"
    notes: str = ""


def to_json(value: Any) -> Any:
    """A config as JSON values: dataclasses carry their type, functions their address "module:name", a plain System a hash of its source."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        stored = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"type": f"{kind.__module__}:{kind.__qualname__}"} | {k: to_json(v) for k, v in stored.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, Mapping):
        return {"type": "dict", "items": {str(k): to_json(v) for k, v in value.items()}}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if callable(value) and "<" not in value.__qualname__:
        return {"type": "function", "name": f"{value.__module__}:{value.__qualname__}"}
    raise ConfigError(
        f"a config cannot hold {value!r}: use dataclasses, tuples, numbers, text or module-level functions"
    )


def from_json(value: Any) -> Any:
    """The config that `to_json` wrote. Only code of mmrep, of configs and of modules already imported is looked up.

    Raises ConfigError for anything else.
    """
    if isinstance(value, list):
        return tuple(from_json(v) for v in value)
    if not isinstance(value, dict):
        return value
    if value.get("type") == "dict" and isinstance(value.get("items"), dict):
        return {k: from_json(v) for k, v in value["items"].items()}
    if value.get("type") == "function":
        if str(value.get("name")).partition(":")[0].split(".")[0] in sys.stdlib_module_names:
            raise ConfigError(
                f"a stored config names {value['name']}: no config needs a function of the standard library"
            )
        return _find(value.get("name"))
    if value.get("type") == "mmrep.system:System":
        raise ConfigError(
            "the stored system is a plain System, whose functions no file holds: give it again, mmrep.load(..., system=SYSTEM)"
        )
    kind = _find(value.get("type"))
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise ConfigError(f"{value['type']} in a stored config is not a config class")
    known = {f.name for f in dataclasses.fields(kind)}
    given = {k: from_json(v) for k, v in value.items() if k != "type"}
    for name in given:
        if name not in known:
            raise ConfigError(
                f"the stored config has {value['type']}.{name}, which this version does not know{near(name, known)}"
            )
    try:
        return kind(**given)
    except TypeError as error:
        raise ConfigError(f"the stored config's {value['type']} does not fit this version: {error}") from None


def experiment_from_json(value: Any, system: Any = None) -> Experiment:
    """The experiment that `to_json` wrote; `system` takes the place of the stored one, which is then not looked up."""
    if system is None:
        return from_json(value)
    return replace(from_json({**value, "system": None}), system=system)


def _find(address: Any) -> Any:
    if not isinstance(address, str) or not re.fullmatch(r"[\w.]+:[\w.]+", address):
        raise ConfigError(
            f"a stored config has {_short(address)} where MODULE:NAME should be: it was not written by mmrep"
        )
    module, _, name = address.partition(":")
    outside = module.split(".")[0] not in ("mmrep", "configs")
    if outside and module not in sys.modules:
        raise ConfigError(
            f"a stored config names {address}, outside mmrep and configs: import that module first if you trust it"
        )
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        if outside:
            raise ConfigError(
                f"a stored config names {address}, code of a notebook or script that no file holds: define it first, "
                "or give the system again, mmrep.load(..., system=SYSTEM)"
            ) from None
        raise ConfigError(f"a stored config names {address}, which this version does not have") from None
    return found


def fingerprint(config: Any) -> str:
    """16 hex digits that two configs share exactly when they are equal, but for `Train.checkpoint_minutes`, which changes no result.

    A field that a class got later keeps the fingerprints of older configs at the value that stands for them (see `_LATER`).
    """
    return hashlib.sha256(json.dumps(timeless(to_json(config)), sort_keys=True).encode()).hexdigest()[:16]


# Fields that came after the first results, with the JSON value at which a config equals one without the field.
_LATER: Mapping[tuple[str, str], Any] = {
    ("mmrep.config:Optim", "factors"): [],
    ("mmrep.config:Tokenizer", "sources"): [],
    ("mmrep.modality:Modality", "missing"): False,
    ("mmrep.modality:Modality", "short"): 0,
    ("mmrep.modality:Modality", "jitter"): False,
    ("mmrep.modality:Modality", "resample"): "bicubic",
    ("mmrep.nn.encoders.image:ImageEncoder", "registers"): 0,
    ("mmrep.nn.config:TransformerConfig", "dropout"): 0.0,
    ("mmrep.nn.config:TransformerConfig", "sub_norm"): False,
    ("mmrep.evals.suite:Retrieval", "truth"): "",
    ("mmrep.evals.suite:Retrieval", "by"): "",
    ("mmrep.data.tables:Table", "video"): None,
    ("mmrep.data.folder:Folder", "animations"): False,
    ("mmrep.data.shards:Shards", "video"): ["mp4", "m4v", "mov", "webm", "mkv", "avi"],
    ("mmrep.data.clips.source:ClipData", "sound_noise"): None,
    ("mmrep.nn.encoders.decoder_lm:DecoderLM", "embed_norm"): False,
    ("mmrep.systems.masked.fourm:Config", "tokenizers"): [],
    ("mmrep.systems.masked.fourm:Config", "decoder_embedding_std"): 0.02,
    ("mmrep.systems.masked.fourm.tokens:TokenModality", "mean"): [0.5],
    ("mmrep.systems.masked.fourm.tokens:TokenModality", "std"): [0.5],
}


def timeless(value: Any) -> Any:
    """The JSON form of a config without what changes no result: later fields at the value that stands for their absence."""
    if isinstance(value, list):
        return [timeless(v) for v in value]
    if isinstance(value, dict):
        kind = str(value.get("type"))
        kept = {k: v for k, v in value.items() if (kind, k) not in _LATER or v != _LATER[kind, k]}
        return {k: timeless(v) for k, v in kept.items() if k != "checkpoint_minutes"}
    return value


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two JSON forms of a config differ: "data.batch_size: 64 -> 128"."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for k in sorted({*a, *b}) for d in differences(a.get(k), b.get(k), f"{path}.{k}" if path else k)]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b)) for d in differences(x, y, f"{path}.{i}")]
    return [] if a == b else [f"{path}: {_short(a)} -> {_short(b)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dict -> {"a/b/c": leaf}; an empty dict has no leaf and leaves no trace."""
    from flax.traverse_util import flatten_dict  # 0.8 s, which listing and parsing configs need not wait for

    return flatten_dict(tree, sep="/")


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    from flax.traverse_util import unflatten_dict

    return unflatten_dict(flat, sep="/")


__all__ = [
    "Arm", "Data", "Expect", "Experiment", "Mesh", "Optim", "Phase", "Pretrained", "Proof", "Rule", "Tokenizer", "Train",
    "differences", "experiment_from_json", "fingerprint", "flatten", "from_json", "timeless", "to_json", "unflatten",
]  # fmt: skip
