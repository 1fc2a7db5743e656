"""Generates modalities from others with a trained any-to-any system, and writes pictures and texts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments import _cli
from mmrep.errors import ConfigError, near

Pairs = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True)
class Options:
    targets: str
    """e.g. depth,semseg,rgb, in the order in which they are generated"""
    given: Annotated[Pairs, tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """caption="a red cube" (with ... at its end where more may follow), rgb=FILE, or rgb=test:3 for a held-out record"""
    workdir: Annotated[Path | None, _cli.FOLDER] = None
    """the run's folder (default: runs/SLUG-SIZE)"""
    out: Annotated[Path | None, _cli.FOLDER] = None
    """folder of the results (default: WORKDIR/generated)"""
    samples: int = 1
    """samples of each target"""
    scheme: Literal["roar", "maskgit"] = "roar"
    """order in which an image's tokens are decoded; texts are autoregressive"""
    steps: int = 12
    """decoding steps of each image"""
    temperature: float = 0.7
    """sampling temperature"""
    cooling: str = "constant"
    """temperature schedule: constant, linear or onex:END:POWER"""
    top_k: float = 0.0
    """number of likeliest tokens to sample from, or a share of them below 1 (0: all)"""
    top_p: float = 0.0
    """probability mass to sample from (0: all)"""
    guidance: float = 1.0
    """weight of all conditions together (1: one forward pass, no guidance)"""
    guide: Annotated[Pairs, tyro.conf.arg(metavar="NAME=WEIGHT")] = ()
    """a separate weight for one given modality, negative to move away from it"""
    grow: bool = False
    """finished targets become conditions of the next"""
    decoder: Annotated[Pairs, tyro.conf.arg(metavar="NAME=FOLDER")] = ()
    """the run of the tokeniser that decodes a target (experiments.tokenize)"""
    seed: int = 0


def run() -> None:
    for path in generate(_cli.parse(Options, __doc__)):
        print(path)


def generate(command: _cli.Command[Options]) -> list[Path]:
    """The files that were written."""
    import jax

    from mmrep.systems.masked.fourm.canvas import blank, fill
    from mmrep.systems.masked.fourm.decode import generate as decide
    from mmrep.systems.masked.fourm.schedules import chain
    from mmrep.training.restore import restore

    options = command.options
    workdir = command.run_folder(options.workdir)
    if options.samples < 1:
        raise ConfigError(f"--samples is {options.samples}: it must be at least 1")
    _cli.enable_compile_cache()
    model = restore(workdir)
    ask = model.tokens()
    by_name = {s.name: s for s in ask.streams}
    targets = [t.strip() for t in options.targets.split(",") if t.strip()]
    given = read_given(model, options.given)
    guides = weights(options.guide, given)
    for name in targets:
        if name not in by_name:
            raise ConfigError(f"--targets has {name!r}, which is no stream{near(name, by_name)}")
        if name in given:
            raise ConfigError(f"{name!r} is given and a target: leave one out")
    schedule = schedule_of(options, ask, targets, tuple(given), guides, chain)
    ids, patches = ask.tokenise({k: v[None].repeat(options.samples, 0) for k, v in given.items()})
    empty = blank(ask.streams, (*given, *targets), options.samples)
    canvas = fill(empty, ask.streams, ids, patches=patches)
    canvas = decide(ask, canvas, targets, schedule, jax.random.key(options.seed))
    made = decoded(ask, canvas, targets, options.decoder, options.seed)
    return write(model, canvas, targets, options.out or workdir / "generated", made)


def decoded(ask: Any, canvas: Any, targets: list[str], pairs: Sequence[str], seed: int) -> dict[str, Any]:
    """Maps of the targets that are images: by their --decoder, else as the system itself knows them."""
    import numpy as np

    import mmrep

    maps = ask.detokenise({k: v for k, v in canvas.ids.items() if k in targets})
    grids = {s.name: s.grid for s in ask.streams if s.name in maps}
    for pair in pairs:
        name, _, folder = pair.partition("=")
        if name not in grids:
            raise ConfigError(f"--decoder {pair!r} is not NAME=WORKDIR of a target that is an image{near(name, grids)}")
        tokeniser = mmrep.load(folder)
        if "detokenise" not in tokeniser.names:
            raise ConfigError(f"--decoder {pair!r}: {folder} is no tokeniser, it has no infer function 'detokenise'")
        ids = np.asarray(canvas.ids[name]).reshape(-1, *grids[name])
        maps[name] = tokeniser.infer(
            "detokenise", {"ids": ids, "seed": np.arange(seed, seed + len(ids), dtype=np.uint32)}
        )
    return maps


def weights(pairs: Sequence[str], given: Any) -> dict[str, float]:
    """NAME=WEIGHT as {name: weight}. Raises ConfigError for what is no number, or is not given."""
    found = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in given:
            raise ConfigError(f"--guide {name!r} is not given{near(name, given)}")
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(f"--guide {pair!r} is not NAME=WEIGHT, like caption=3") from None
    return found


def schedule_of(
    options: Any, ask: Any, targets: list[str], given: tuple[str, ...], guides: dict[str, float], chain: Any
) -> list:
    """A Target for each name. Given streams with a weight of their own are conditions apart; the others share --guidance."""
    import dataclasses

    from mmrep.systems.masked.fourm.schedules import Guide

    texts = {s.name for s in ask.streams if s.length}
    images = {"steps": options.steps, "cooling": options.cooling, "scheme": options.scheme}
    shared = {"temperature": options.temperature, "top_k": options.top_k, "top_p": options.top_p}
    rest, found = tuple(n for n in given if n not in guides), []
    done: tuple[str, ...] = ()
    for name in targets:
        scheme = {"scheme": "autoregressive"} if name in texts else images
        (target,) = chain([name], (*rest, *done), options.guidance, **scheme, **shared)
        own = tuple(Guide((n,), w) for n, w in guides.items())
        found.append(dataclasses.replace(target, guides=(*target.guides, *own)))
        done = (*done, name) if options.grow else done
    return found


def read_given(model: Any, pairs: Sequence[str]) -> dict[str, Any]:
    """{modality: one encoded value}. A value is text ("..." at its end: more may follow), a picture's file, or SPLIT:NUMBER of the run's data."""
    import numpy as np

    from mmrep import modality
    from mmrep.systems.masked.fourm.canvas import left_open

    known = {m.name: m for m in model.data.modalities}
    sentinels = {s.name: s.vocab for s in model.tokens().streams if s.length}
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
            found[name] = split.entry(int(record[2]))[name]
            continue
        raw: Any = value
        if m.kind != "text":
            from PIL import Image, UnidentifiedImageError

            try:
                with Image.open(value) as picture:
                    raw = np.asarray(picture.convert("RGB" if m.kind == "image" and m.shape[-1] == 3 else "L"))
            except (OSError, UnidentifiedImageError) as error:
                raise ConfigError(f"--given {pair!r}: {value} is no picture that can be read ({error})") from None
        more = name in sentinels and value.endswith("...")
        found[name] = modality.encode(m, raw.removesuffix("...") if more else raw, model.tokenize)[name]
        found[name] = left_open(found[name], sentinels[name]) if more else found[name]
    return found


def write(model: Any, canvas: Any, targets: list[str], folder: Path, maps: Any, side: int = 256) -> list[Path]:
    """NAME-SAMPLE.png of images (`maps`), NAME-SAMPLE.txt of texts."""
    from PIL import Image

    from mmrep.systems.masked.fourm.panels import picture, text

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in targets:
        for i, ids in enumerate(canvas.ids[name]):
            path = folder / f"{name}-{i}.{'png' if name in maps else 'txt'}"
            if name in maps:
                pixels = picture(maps[name][i])
                scale = max(1, side // max(pixels.shape[:2]))
                size = pixels.shape[1] * scale, pixels.shape[0] * scale
                Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(path)
            else:
                path.write_text(text(model, ids) + "\n", encoding="utf-8")
                print(f"{name}: {text(model, ids)}")
            written.append(path)
    return written


if __name__ == "__main__":
    _cli.main(run)
