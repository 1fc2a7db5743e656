"""The functions of `import mmrep`: find, create, load, train and evaluate systems, and put trained ones to use."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from mmrep import catalogue, paths
from mmrep.config import Data, Experiment, Optim, Phase, Pretrained, flatten, replace
from mmrep.errors import ConfigError, DataError
from mmrep.evals import suite
from mmrep.evals import zero_shot as prompts
from mmrep.evals.dense import Predicted
from mmrep.interop import foreign, safetensors
from mmrep.model import Model
from mmrep.systems.recipes.finetune import learnt, start
from mmrep.training import loop
from mmrep.training.restore import restore


def list_systems(family: str = "") -> list[str]:
    """The names of all systems, ordered by family, or those of one family.

    >>> "clip" in list_systems()
    True
    >>> list_systems("tokenizers")
    ['memcodes', 'vqvae']
    """
    found = catalogue.entries()
    if family and family not in {e.family for e in found}:
        raise ConfigError(f"no family {family!r}; choose from {', '.join(catalogue.families(found))}")
    return [e.slug for e in found if not family or e.family == family]


def get_config(slug: str, size: str = "small", variant: str = "") -> Experiment:
    """The experiment of a system: frozen dataclasses, changed by `dataclasses.replace`.

    Raises ConfigError for an unknown slug, size or variant, with the nearest name.

    >>> get_config("clip", "tiny").data.batch_size
    8
    """
    return catalogue.experiment(slug, size, variant)


def create(system: str | Experiment, size: str = "small", seed: int = 0, variant: str = "") -> Model:
    """An untrained model of a system's name or of an experiment, its parameters drawn with `seed`.

    >>> create("clip", "tiny", seed=1).embed(text=["a red circle"]).shape
    (1, 32)
    """
    experiment = get_config(system, size, variant) if isinstance(system, str) else system
    experiment = replace(experiment, train=replace(experiment.train, seed=seed))
    return Model(experiment, *loop.initial(experiment))


def load(
    what: str | paths.Place, size: str = "small", variant: str = "", *, system: Any = None, image_size: int = 0
) -> Model:
    """A trained model from any of
    - a run's folder,
    - a file that `Model.save` wrote,
    - a published file of weights, or a folder of them (recognised by the names of the arrays and the config beside them),
    - "hf-hub:ORG/NAME": such a folder of the Hugging Face hub, where huggingface_hub is installed,
    - the URL of any of these in an object store, gs://BUCKET/KEY or s3://BUCKET/KEY,
    - a system's name: its run in ./runs/NAME-SIZE of the current directory, else the trained model of that name that comes with mmrep.

    system: in place of the stored one, for a model whose code is not part of mmrep.
    image_size: in pixels, of a published Vision Transformer: its positions are interpolated as its library does it; 0: that of its files.
    Raises ConfigError where there is no such run, DataError for a missing, damaged or unknown file.
    """
    path = foreign.from_hub(str(what)) if str(what).startswith(foreign.HUB) else paths.at(what)
    try:
        is_run = paths.exists(path / "config.json") and _is_run(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): check path and credentials") from None
    if is_run:
        return restore(path, system)
    if path.suffix in foreign.SUFFIXES or paths.is_url(path) or paths.is_dir(path):
        with paths.fetched(path) as copy:
            return _of_files(copy, system, image_size)
    run = Path("runs") / "-".join(filter(None, (str(what), size, variant)))
    if (run / "config.json").exists():
        return restore(run, system)
    catalogue.find(str(what))
    if size == "small" and not variant and (shipped := catalogue.shipped(str(what))):
        return _fitting(shipped, Model(*safetensors.read(shipped, system), **safetensors.read_training(shipped)))
    command = f"python -m experiments.train {what} --size {size}" + (f" --variant {variant}" if variant else "")
    raise ConfigError(
        f"no run in {run}: mmrep.load({str(what)!r}) takes the run of that name in ./runs of this directory; train it there "
        f"({command}), or give a run's folder or a file of weights"
    )


def _of_files(path: Path, system: Any, image_size: int) -> Model:
    """The model of a file that `Model.save` wrote, or of published weights. Raises DataError for a missing, damaged or unknown file."""
    if path.suffix == ".safetensors" and (safetensors.is_ours(path) or not path.exists()):
        return _fitting(path, Model(*safetensors.read(path, system), **safetensors.read_training(path)))
    if not path.exists():
        raise DataError(f"no file {path}")
    found = foreign.read_foreign(path, image_size)
    if found is None:
        raise DataError(f"{path} holds no run of mmrep, and no weights that a system here recognises")
    experiment, params, extras = found
    experiment, tokenizer = foreign.with_tokenizer(path, experiment)
    return Model(experiment, params, extras, tokenizer)


def _fitting(path: Path, model: Model) -> Model:
    """`model`. Raises DataError for the first parameter that its config has and the file lacks or holds in another shape."""
    spec, _ = jax.eval_shape(lambda: loop.initial(model.experiment))
    held = flatten(model.params)
    for name, wanted in flatten(spec).items():
        if name not in held or np.shape(held[name]) != wanted.shape:
            found = f"has shape {list(np.shape(held[name]))}" if name in held else "is missing"
            raise DataError(
                f"{path}: parameter {name} {found}, its config needs {list(wanted.shape)}: write the file again"
            )
    return model


def _is_run(folder: paths.Place) -> bool:
    return b'"experiment"' in paths.read(folder / "config.json")


def train(
    config: str | Experiment,
    workdir: str | paths.Place | None = None,
    *,
    size: str = "small",
    evaluate: Callable[[Model], Mapping[str, float]] | None = suite.evaluate,
    progress: bool = True,
) -> Model:
    """Trains an experiment, or a system's name at `size`, and evaluates it on held-out data: `train("clip").metrics`.

    workdir: a folder for checkpoints and logs; the same call resumes there. evaluate: the experiment's own evaluators, unless given;
    None for none.   Raises ConfigError where the folder holds a run of another config.
    """
    meta = {"slug": config, "size": size} if isinstance(config, str) else None
    experiment = get_config(config, size) if isinstance(config, str) else config
    folder = None if workdir is None else paths.at(workdir)
    return loop.train(experiment, folder, evaluate=evaluate, meta=meta, progress=progress)


def pretrained(config: str | Experiment, *, size: str = "small", progress: bool = True) -> Model:
    """The trained model of an experiment, or of a system's name at `size`: read from the cache, or trained now and kept there.

    The cache is $MMREP_CACHE, or ~/.cache/mmrep; equal configs share an entry. The model is not evaluated.
    """
    experiment = get_config(config, size) if isinstance(config, str) else config
    return loop.pretrained(experiment, progress)


def evaluate(model: Model, data: Any = None, evals: Any = None) -> dict[str, float]:
    """{metric: value} of evaluators (default: the experiment's own) over the model's data, or over other `data` (see `Model.on`).

    >>> from mmrep.data.scenes import SceneData
    >>> from mmrep.evals.suite import Retrieval
    >>> model = create("clip", "tiny")
    >>> found = evaluate(model, SceneData(n_test=16), [Retrieval("image", "text")])
    >>> found["image->text candidates"]
    16.0
    """
    model = model if data is None else model.on(data)
    chosen = model.experiment.evals if evals is None else evals
    return suite.run_all(tuple(chosen) if isinstance(chosen, (list, tuple)) else (chosen,), model)


class Classifier(NamedTuple):
    """`classifier(pictures)` -> probabilities [N, C]; `scores` -> similarities [N, C]; `predict` -> class names.

    prompts: class embeddings [C, D], or (for a system with its own `score`) the tokens of every prompt.
    """

    model: Model
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    prompts: Any
    query: str
    temperature: float

    def __call__(self, values: Any) -> Float[np.ndarray, "N C"]:
        logits = self.scores(values) / self.temperature
        odds = np.exp(logits - logits.max(1, keepdims=True, initial=-np.inf))
        return odds / odds.sum(1, keepdims=True)

    def scores(self, values: Any) -> Float[np.ndarray, "N C"]:
        if isinstance(self.prompts, np.ndarray):
            return self.model.embed(**{self.query: values}) @ self.prompts.T
        tokens = self.model.encode_tokens(**{self.query: values})
        pairs = self.model.score_matrix(tokens, self.prompts, names=(self.query, "text"))
        return prompts.average_over_templates(pairs, len(self.templates))

    def predict(self, values: Any) -> list[str]:
        return [self.classes[i] for i in self.scores(values).argmax(1)]


def zero_shot(
    model: Model,
    classes: Sequence[str],
    templates: Sequence[str] = ("{}",),
    *,
    query: str = "image",
    text: str = "text",
    temperature: float = 0.01,
) -> Classifier:
    """A classifier from class names: each class is the mean embedding of its prompts (Radford et al. 2021, section 3.1).

    templates: hold "{}" for the class name.   query: the modality that is classified.   temperature: divides the similarities before
    the softmax (CLIP's is 0.01); it does not change which class is the most likely.

    >>> classifier = zero_shot(create("clip", "tiny"), ["circle", "square"], ["a {}", "a red {}"])
    >>> classifier(np.zeros((3, 32, 32, 3), np.uint8)).shape
    (3, 2)
    """
    if isinstance(classes, str) or isinstance(templates, str) or not classes or not templates:
        raise ConfigError("zero_shot takes lists: classes=['circle', ...], templates=['a {}', ...]")
    if wrong := [t for t in templates if t.count("{}") != 1]:
        raise ConfigError(f"template {wrong[0]!r} must hold {{}} once, where the class name goes")
    if temperature <= 0:
        raise ConfigError(f"temperature is {temperature}: it must be positive")
    model.modality(query)
    texts = [t.format(c) for c in classes for t in templates]
    embedded: Any
    if "score" in model.names:
        embedded = model.encode_tokens(**{text: texts})
    else:
        vectors = model.embed(**{text: texts})
        embedded = prompts.class_embeddings(vectors.reshape(len(classes), len(templates), -1))
    return Classifier(model, tuple(classes), tuple(templates), embedded, query, temperature)


def finetune(
    model: Model,
    data: Data,
    head: Any = "linear",
    *,
    target: str = "",
    inputs: Sequence[str] = (),
    freeze: bool = True,
    lora_rank: int = 0,
    lora_pattern: str = "",
    prompts: int = 0,
    steps: int = 500,
    lr: float = 1e-3,
    layer_decay: float = 1.0,
    workdir: str | paths.Place | None = None,
    progress: bool = True,
) -> Model:
    """A new head on a model's encoder, trained on labelled data: its `call("predict", ...)` gives logits, its metrics the test split's.

    data:   has the encoder's modalities and one more, which the head predicts (`target` names it where there are several).
    inputs: modalities that the encoder takes; its first image (or first modality) unless given.
    head:   "linear" or "mlp" for a label, "dense" for a class map or numbers of every pixel; or a head of
            `mmrep.systems.recipes.finetune`.
    freeze: train the head alone (a probe); False trains the encoder as well, with `layer_decay` as each layer's rate over that of
            the layer above.
    lora_rank, lora_pattern: train low-rank adapters of the frozen encoder's Dense layers too (their paths begin with "encoder/"; attention's
            queries and values unless given); `save` merges them into the kernels.
    prompts: train so many vectors before the tokens of the frozen encoder's Transformers, too.
    Raises ConfigError where the data has no such target, freeze=False goes with adapters or prompts, or the system no features for such a head.

        classes = mmrep.modality.label("label", 10)
        data = replace(model.data, source=mmrep.Folder("photos"), modalities=(*model.data.modalities, classes))
        classifier = mmrep.finetune(model, data)
        classifier.call("predict", image=pictures).argmax(-1)
    """
    known = {m.name for m in model.data.modalities}
    new = {m.name: m for m in data.modalities if m.name not in known and m.kind in ("label", "map", "image")}
    found = {m.name: m for m in data.modalities if m.name == target} if target else new
    if len(found) != 1:
        names = ", ".join(found) or "none"
        raise ConfigError(
            f"finetune needs one target that the model's data lacks, found {names}: add a label or map to data.modalities, or name it with target="
        )
    (goal,) = found.values()
    if (lora_rank or prompts) and not freeze:
        raise ConfigError(
            "finetune: freeze is False and lora_rank or prompts is set, which are for a frozen encoder: give one of them"
        )
    if lora_rank < 0 or prompts < 0:
        raise ConfigError(f"finetune: lora_rank {lora_rank} and prompts {prompts} must not be negative")
    added: dict[str, Any] = {"lora_rank": lora_rank, "prompts": prompts}
    added |= {"lora_pattern": lora_pattern} if lora_pattern else {}
    config = start.over(model.experiment, goal, head, inputs=tuple(inputs), **added)
    if missing := {*config.inputs} - {m.name for m in data.modalities}:
        raise ConfigError(f"finetune: data.modalities lacks {', '.join(sorted(missing))}, which the encoder takes")
    folder = paths.make_cache("donors")
    donor = model.save(folder / f"{_digest(model)}.safetensors")
    parts = tuple(m for m in data.modalities if m.name in (*config.inputs, goal.name))
    tokenizer = model.data.tokenizer if any(m.kind in ("text", "texts") for m in parts) else None
    phase = Phase(
        "probe" if freeze else "finetune", steps, trainable=learnt(config) if freeze else (".*",),
        start=(Pretrained(file=str(donor), parts=start.pretrained_parts(config)),),
    )  # fmt: skip
    truth = goal.name if goal.kind == "label" else config.map
    experiment = Experiment(
        config, replace(data, modalities=parts, tokenizer=tokenizer), (phase,),
        Optim(lr=lr, warmup=steps // 10, layer_decay=layer_decay), (Predicted(truth, config.inputs, name=goal.name),),
    )  # fmt: skip
    place = None if workdir is None else paths.at(workdir)
    sentencepiece = model.sentencepiece if tokenizer else None
    return loop.train(experiment, place, evaluate=suite.evaluate, sentencepiece=sentencepiece, progress=progress)


def _digest(model: Model) -> str:
    """16 hex digits of a model's parameters."""
    found = hashlib.sha256()
    for path, value in sorted(flatten({"params": model.params, "extras": model.extras}).items()):
        found.update(f"{path} {value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    return found.hexdigest()[:16]
