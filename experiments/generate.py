"""Generates modalities from others with a trained any-to-any system, or texts with a system that writes captions, answers or code.

python -m experiments.generate valor --targets written --given video=test:3 --given sound=test:3 --beams 4
python -m experiments.generate unixcoder --targets completed --given "code=def f(x):"
"""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments import _cli
from mmrep import paths
from mmrep.errors import ConfigError, near
from mmrep.modality import EOS

Pairs = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True)
class Options:
    targets: str
    """e.g. depth,semseg,rgb, in the order in which they are generated; or written, an infer function that writes texts"""
    given: Annotated[Pairs, tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """caption="a red cube" (with ... at its end where more may follow), rgb=FILE, sound=FILE, or rgb=test:3 for a held-out record"""
    workdir: Annotated[Path | None, _cli.FOLDER] = None
    """the run's folder (default: runs/SLUG-SIZE, or the trained model that comes with mmrep)"""
    out: Annotated[Path | None, _cli.FOLDER] = None
    """folder of the results (default: WORKDIR/generated)"""
    samples: int = 1
    """samples of each target"""
    scheme: Literal["roar", "maskgit"] = "roar"
    """order in which an image's tokens are decoded; texts are autoregressive"""
    decoding_steps: int = 12
    """decoding steps of each image"""
    temperature: float = 0.7
    """sampling temperature"""
    temperature_schedule: str = "constant"
    """temperature schedule: constant, linear or onex:END:POWER"""
    top_k: float = 0.0
    """number of likeliest tokens to sample from, or a share of them below 1 (0: all)"""
    top_p: float = 0.0
    """probability mass to sample from (0: all)"""
    guidance: float = 1.0
    """guidance scale of all conditions together (1: one forward pass, no guidance)"""
    scale: Annotated[Pairs, tyro.conf.arg(metavar="NAME=SCALE")] = ()
    """a guidance scale of its own for one given modality, negative to move away from it"""
    grow_conditioning: bool = False
    """finished targets become conditions of the next"""
    decoder: Annotated[Pairs, tyro.conf.arg(metavar="NAME=FOLDER")] = ()
    """the run of the tokenizer that decodes a target (experiments.tokenize)"""
    beams: int = 0
    """beams of the search of a system that writes texts; 1 is greedy (0: as in its config)"""
    among: Annotated[Pairs, tyro.conf.arg(metavar="TEXT")] = ()
    """the texts to choose from, for systems that write texts (default: any text)"""
    seed: int = 0


def run() -> None:
    for path in generate(_cli.parse(Options, __doc__)):
        print(path)


def generate(command: _cli.Command[Options]) -> list[paths.Place]:
    """The files that were written."""
    options = command.options
    if options.samples < 1:
        raise ConfigError(f"--samples is {options.samples}: it must be at least 1")
    _cli.enable_compile_cache()
    model = command.trained(options.workdir)
    targets = [t.strip() for t in options.targets.split(",") if t.strip()]
    given = read_given(model, options.given)
    place = paths.at(options.out or command.workdir(options.workdir) / "generated")
    if not model.generates:
        texts = written(model, targets, given, options.beams, options.among)
        return write(model, texts, place)
    if options.beams or options.among:
        raise ConfigError(f"--beams and --among are of systems that write texts; {command.slug} generates modalities")
    made = model.tokens().generate(
        {k: v[None].repeat(options.samples, 0) for k, v in given.items()},
        targets,
        batch_size=options.samples,
        guidance=options.guidance,
        scales=weights(options.scale, given),
        grow_conditioning=options.grow_conditioning,
        scheme=options.scheme,
        decoding_steps=options.decoding_steps,
        temperature=options.temperature,
        temperature_schedule=options.temperature_schedule,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )
    made = decoded(made, targets, options.decoder, options.seed)
    return write(model, {name: made[name] for name in targets}, place)


def writers(model: Any) -> list[str]:
    """The infer functions that write texts: those that take `beams` and `allowed` beside the batch."""
    return [n for n, f in model.system.infer.items() if {"beams", "allowed"} <= {*inspect.signature(f).parameters}]


def written(
    model: Any, targets: Sequence[str], given: dict[str, Any], beams: int, among: Sequence[str]
) -> dict[str, Any]:
    """{target: ids [1, L]}, by greedy or beam search. Raises ConfigError for another target, and where a modality is not given."""
    import jax
    import numpy as np

    from mmrep.generation.text import trie

    known = writers(model)
    if not known:
        raise ConfigError(f"{model.name} does not generate: no infer function writes texts")
    if beams < 0:
        raise ConfigError(f"--beams is {beams}: it must be at least 1, or 0 for that of the config")
    allowed = None
    if among:
        text = max((m for m in model.data.modalities if m.kind == "text"), key=lambda m: m.shape[0])
        rows = [row[1 : int((row == EOS).argmax()) + 1] for row in model.tokenizer(list(among), text.name)]
        allowed = jax.numpy.asarray(trie(rows, text.vocab))
    found = {}
    for target in targets:
        if target not in known:
            raise ConfigError(f"--targets {target!r} is no infer function that writes texts{near(target, known)}")
        batch = {name: value[None] for name, value in given.items()}
        run = jax.jit(lambda p, e, b, f=model.system.infer[target]: f(p, e, b, beams=beams, allowed=allowed))
        try:
            found[target] = np.asarray(run(model.params, model.extras, batch))
        except KeyError as error:
            raise ConfigError(f"{target!r} needs {error.args[0]!r}, too: give it by --given") from None
    return found


def decoded(made: dict[str, Any], targets: list[str], pairs: Sequence[str], seed: int) -> dict[str, Any]:
    """`made` with the ids of the targets in `pairs` decoded by a tokenizer."""
    import numpy as np

    import mmrep

    images = [name for name in targets if made[name].ndim > 2]
    for pair in pairs:
        name, _, folder = pair.partition("=")
        if name not in images:
            raise ConfigError(
                f"--decoder {pair!r} is not NAME=WORKDIR of a target that is an image{near(name, images)}"
            )
        tokenizer = mmrep.load(folder)
        if "detokenize" not in tokenizer.names:
            raise ConfigError(f"--decoder {pair!r}: {folder} is no tokenizer, it has no infer function 'detokenize'")
        if made[name].ndim != 3:
            raise ConfigError(f"--decoder {pair!r}: {name} has no ids of a tokenizer in this run")
        seeds = np.arange(seed, seed + len(made[name]), dtype=np.uint32)
        made = made | {name: tokenizer.infer("detokenize", {"ids": made[name], "seed": seeds})}
    return made


def weights(pairs: Sequence[str], given: Any) -> dict[str, float]:
    """NAME=SCALE as {name: scale}. Raises ConfigError for a weight that is no number, or a modality that is not given."""
    found = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in given:
            raise ConfigError(f"--scale {name!r} is not given{near(name, given)}")
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(f"--scale {pair!r} is not NAME=SCALE, like caption=3") from None
    return found


def read_given(model: Any, pairs: Sequence[str]) -> dict[str, Any]:
    """{modality: one encoded value}. A value is text ("..." at its end: more may follow), an image file, or SPLIT:NUMBER of the run's data."""
    import numpy as np

    from mmrep import modality

    known = {m.name: m for m in model.data.modalities}
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if name not in known or not equals:
            raise ConfigError(f"--given {pair!r} is not NAME=VALUE with a modality of this run{near(name, known)}")
        m = known[name]
        record = re.fullmatch(r"(train|val|test):(\d+)", value)
        if record:
            split = model.split(record[1])
            if int(record[2]) >= len(split):
                raise ConfigError(f"--given {pair!r}: the split has {len(split)} records")
            entry = split.entry(int(record[2]))
            found |= {k: entry[k] for k in (name, f"{name}_length") if k in entry}
            continue
        raw: Any = value
        if m.kind == "audio":
            from mmrep.data import decode

            raw = decode.audio(decode.read(value), value, m.rate)
        elif m.kind == "label":
            raw = int(value) if value.isdigit() else value
        elif m.kind != "text":
            from PIL import Image, UnidentifiedImageError

            try:
                with Image.open(value) as picture:
                    raw = np.asarray(picture.convert("RGB" if m.kind == "image" and m.shape[-1] == 3 else "L"))
            except (OSError, UnidentifiedImageError) as error:
                raise ConfigError(f"--given {pair!r}: {value} is no image file ({error})") from None
        more = m.kind == "text" and value.endswith("...") and model.generates
        found |= modality.encode(m, raw.removesuffix("...") if more else raw, model.tokenize)
        if more:
            found[name] = model.tokens().open_ended(name, found[name])
    return found


def write(model: Any, made: dict[str, Any], folder: paths.Place, side: int = 256) -> list[paths.Place]:
    """NAME-SAMPLE.png of images, NAME-SAMPLE.txt of texts."""
    from PIL import Image

    from mmrep.systems.masked.fourm.panels import picture, text

    paths.make(folder, "give another --out")
    written = []
    for name, values in made.items():
        for i, value in enumerate(values):
            path = folder / f"{name}-{i}.{'png' if values.ndim > 2 else 'txt'}"
            if values.ndim > 2:
                pixels = picture(value)
                scale = max(1, side // max(pixels.shape[:2]))
                size = pixels.shape[1] * scale, pixels.shape[0] * scale
                with paths.written(path) as part:
                    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(part, "PNG")
            else:
                paths.replace(path, text(model, value) + "\n")
                print(f"{name}: {text(model, value)}")
            written.append(path)
    return written


if __name__ == "__main__":
    _cli.main(run)
