"""Shows the input of a system: samples as they enter a batch, and records that cannot be used.

Prints one line a modality and the texts decoded from their ids; --out also writes sheet.png and a .wav for each sound.
A bad record ends the command with one sentence and exit code 2; --all checks the whole split instead and counts bad records by
reason, with exit code 2 where there are more than data.max_bad_records.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from experiments import _cli
from mmrep import modality, paths
from mmrep.config import Data, Experiment
from mmrep.data import pipeline
from mmrep.errors import ConfigError, DataError
from mmrep.modality import PAD, UNK, Modality, Tokenize

TILE = 128


@dataclass(frozen=True)
class Row:
    """One modality over the shown samples; `low`, `high` and `mean` leave padding out."""

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    mean: float
    valid: str


@dataclass(frozen=True)
class Report:
    """`samples` are batch entries without batch axis; `texts[name]` each sample's decoded ids; `notes` sentences about the whole split."""

    split: str
    size: int
    indices: tuple[int, ...]
    files: tuple[str, ...]
    rows: tuple[Row, ...]
    samples: tuple[Mapping[str, np.ndarray], ...]
    texts: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bad:
    """Bad records that share a reason: how many, and the first one's whole sentence."""

    count: int
    first: str


def inspect(
    experiment: Experiment, tokenize: Tokenize | None, split: str = "train", n: int = 4, seed: int | None = None
) -> Report:
    """`n` samples spread evenly over `split`: the evaluation view, or with `seed` a training view (drawn captions, augmented).

    Raises DataError naming file and record where one cannot be used, ConfigError for n below 1.
    """
    if n < 1:
        raise ConfigError(f"n is {n}: show at least one sample")
    data = experiment.data
    records = _open(data, split)
    indices = tuple(dict.fromkeys(k * len(records) // n for k in range(n)))
    samples, files = [], []
    for i in indices:
        rng = None if seed is None else np.random.default_rng((seed, i))
        entries, file = _entry(data, tokenize, records, split, i, rng)
        samples.append(entries)
        files.append(file)
    decode = getattr(tokenize, "decode", None)
    texts = {
        m.name: tuple(" / ".join(decode(ids) for ids in s[m.name].reshape(-1, m.shape[-1])) for s in samples)
        for m in data.modalities
        if m.kind in ("text", "texts") and decode is not None
    }
    rows = tuple(_row(m, samples) for m in data.modalities)
    return Report(split, len(records), indices, tuple(files), rows, tuple(samples), texts, _notes(data, records, split))


def _notes(data: Data, records: Any, split: str) -> tuple[str, ...]:
    opened = pipeline.Split(data, data.source, records, None, split)
    notes = []
    for m in data.modalities:
        if m.kind == "label" and (names := opened.class_names(m.source)):
            shown = ", ".join(f"{i} {name}" for i, name in enumerate(names[:12])) + (", ..." if len(names) > 12 else "")
            notes.append(f"{m.name}: {len(names)} classes: {shown}")
    if split == "train" and data.batch_size > len(records):
        notes.append(f"data.batch_size is {data.batch_size}: training needs {len(records)} or less")
    return (*notes, *filter(None, [opened.leftovers()]))


def scan(experiment: Experiment, tokenize: Tokenize | None, split: str = "train") -> tuple[int, list[str]]:
    """(records in `split`, the sentence of every bad one), reading all of it in the evaluation view."""
    records = _open(experiment.data, split)
    return len(records), list(_bad(experiment.data, tokenize, records, split))


def tally(sentences: Sequence[str]) -> dict[str, Bad]:
    """Bad records by reason, most frequent first: sentences that differ only in names, paths and numbers share one."""
    found: dict[str, Bad] = {}
    for sentence in sentences:
        reason = _reason(sentence)
        before = found.get(reason, Bad(0, sentence))
        found[reason] = Bad(before.count + 1, before.first)
    return dict(sorted(found.items(), key=lambda item: -item[1].count))


def table(report: Report) -> str:
    """The report as text: one line a modality, then each sample's file and texts."""
    head = ("modality", "kind", "shape", "dtype", "min", "max", "mean", "valid")
    lines = [
        (r.name, r.kind, str(list(r.shape)), r.dtype, f"{r.low:.4g}", f"{r.high:.4g}", f"{r.mean:.4g}", r.valid)
        for r in report.rows
    ]
    widths = [max(len(line[k]) for line in [head, *lines]) for k in range(len(head))]
    out = [f"split {report.split}: {report.size} records, {len(report.samples)} shown"]
    out += ["  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in [head, *lines]]
    for k, (i, file) in enumerate(zip(report.indices, report.files)):
        out.append(f"record {i}" + (f"  {file}" if file else ""))
        out += [f"  {name}: {texts[k]}" for name, texts in report.texts.items()]
    return "\n".join([*out, *report.notes])


def write(report: Report, modalities: Sequence[Modality], out: Path) -> list[Path]:
    """Writes sheet.png (a row a sample, a column an image, a map or the middle frame of a video) and <modality>_<record>.wav under `out`; returns the paths."""
    import soundfile

    out.mkdir(parents=True, exist_ok=True)
    written = []
    pictures = [m for m in modalities if m.kind in ("image", "video", "map")]
    if pictures:
        written.append(out / "sheet.png")
        _sheet(report, pictures).save(written[-1])
    for m in modalities:
        for i, sample in zip(report.indices, report.samples) if m.kind == "audio" else ():
            written.append(out / f"{m.name}_{i}.wav")
            soundfile.write(written[-1], sample[m.name][: int(sample[f"{m.name}_length"])], m.rate, subtype="PCM_16")
    return written


def _open(data: Data, split: str) -> Any:
    records = data.source.open(split)
    if not len(records):
        raise DataError(f"split {split!r} of {type(data.source).__name__} is empty")
    return records


def _entry(
    data: Data, tokenize: Tokenize | None, records: Any, split: str, i: int, rng: np.random.Generator | None
) -> tuple[dict[str, np.ndarray], str]:
    where = f"{split} record {i}"
    try:
        record = data.source.view(records[i], rng)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    file = str(record.get("file", ""))
    entries: dict[str, np.ndarray] = {}
    try:
        for m in data.modalities:
            if m.source not in record:
                raise DataError(
                    f"the record has no field {m.source!r} for modality {m.name!r}; it has {', '.join(sorted(record))}"
                )
            entries |= modality.encode(m, record[m.source], tokenize, rng)
    except DataError as error:
        raise DataError(f"{where}{f' ({file})' if file and file not in str(error) else ''}: {error}") from None
    return entries, file


def _bad(data: Data, tokenize: Tokenize | None, records: Any, split: str) -> Iterator[str]:
    for i in range(len(records)):
        try:
            _entry(data, tokenize, records, split, i, None)
        except DataError as error:
            yield str(error)


def _row(m: Modality, samples: Sequence[Mapping[str, np.ndarray]]) -> Row:
    arrays = [np.asarray(s[m.name]) for s in samples]
    real, valid = arrays, "all"
    if m.kind in ("text", "texts"):
        real = [ids[ids != PAD] for a in arrays for ids in a.reshape(-1, m.shape[-1])]
        lengths = [len(a) for a in real]
        unknown = np.mean(np.concatenate(real) == UNK)
        cut = sum(n == m.shape[-1] for n in lengths)
        valid = f"{_share(lengths, m.shape[-1])} ids {min(lengths)}..{max(lengths)}, full {cut}/{len(real)}, unknown {unknown:.0%}"
    elif m.kind == "audio":
        lengths = [int(s[f"{m.name}_length"]) for s in samples]
        real = [a[:n] for a, n in zip(arrays, lengths)]
        valid = f"{_share(lengths, m.shape[0])} {min(lengths) / m.rate:.2f}..{max(lengths) / m.rate:.2f} s"
    elif m.kind in ("label", "map", "ids"):
        valid = f"{len(np.unique(np.concatenate([a.ravel() for a in arrays])))} of {m.vocab} ids"
    values = np.concatenate([a.ravel() for a in real]).astype(np.float64)
    return Row(
        m.name, m.kind, arrays[0].shape, str(arrays[0].dtype), float(values.min()), float(values.max()),
        float(values.mean()), valid,
    )  # fmt: skip


def _share(lengths: Sequence[int], of: int) -> str:
    return f"{np.mean(lengths) / of:.0%}"


def _reason(sentence: str) -> str:
    text = re.sub(r"^\w+ record \d+( \(.*?\))?: ", "", sentence)
    text = re.sub(r"'[^']*'", "'…'", text)
    text = re.sub(r"\S*[/\\]\S*[^\s:,]|\b[\w-]+(\.[A-Za-z]\w{1,4})+\b", "FILE", text)
    return re.sub(r"\d+(,\d{3})*", "N", text)


def _sheet(report: Report, pictures: Sequence[Modality]) -> Any:
    from PIL import Image, ImageDraw

    caption_lines = max(1, len(report.texts))
    height = TILE + 14 * caption_lines + 6
    width = max(TILE * len(pictures) + 4 * (len(pictures) - 1), 480 if report.texts else TILE)
    sheet = Image.new("RGB", (width, height * len(report.samples)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, sample in enumerate(report.samples):
        top = row * height
        for column, m in enumerate(pictures):
            tile = Image.fromarray(_pixels(m, np.asarray(sample[m.name])))
            scale = TILE / max(tile.size)
            size = (max(1, round(tile.width * scale)), max(1, round(tile.height * scale)))
            sheet.paste(tile.resize(size, Image.Resampling.NEAREST), (column * (TILE + 4), top))
        captions = [texts[row] for texts in report.texts.values()] or [f"record {report.indices[row]}"]
        for line, words in enumerate(captions):
            draw.text((2, top + TILE + 1 + 14 * line), words[:90].replace("\n", " "), fill="black")
    return sheet


def _pixels(m: Modality, array: np.ndarray) -> np.ndarray:
    if m.kind == "map":
        shade = array.astype(np.float64) / max(1, m.vocab - 1)
        return np.repeat(np.round(shade * 255).astype(np.uint8)[..., None], 3, axis=2)
    array = array[len(array) // 2] if m.kind == "video" else array
    shown = array if array.shape[2] == 3 else np.repeat(array[..., :1], 3, axis=2)
    return np.round(np.clip(shown, 0.0, 1.0) * 255).astype(np.uint8)


def _tokenize(experiment: Experiment) -> Any:
    data = experiment.data
    return pipeline.load_tokenizer(data, pipeline.fit_tokenizer(data, experiment.sources, paths.cache() / "tokenizers"))


@dataclass(frozen=True)
class Options:
    split: str = "train"
    """train, val or test"""
    n: int = 4
    """samples shown"""
    seed: int | None = None
    """show a training view (sampled captions, augmentation) of this seed"""
    out: Annotated[Path | None, _cli.FOLDER] = None
    """folder for sheet.png and the sounds"""
    all: bool = False
    """check the whole split and count bad records by reason"""


def run(argv: Sequence[str] | None = None) -> None:
    command = _cli.parse(Options, __doc__, argv)
    options, experiment = command.options, command.experiment
    tokenize = _tokenize(experiment)
    if options.all:
        size, bad = scan(experiment, tokenize, options.split)
        print(f"split {options.split}: {size} records, {len(bad)} bad")
        for reason, group in tally(bad).items():
            print(f"{group.count:6d}  {reason}\n        first: {group.first}")
        if len(bad) > experiment.data.max_bad_records:
            raise DataError(
                f"split {options.split!r} has {len(bad)} bad records, {experiment.data.max_bad_records} allowed: "
                "mend them or raise data.max_bad_records"
            )
        return
    report = inspect(experiment, tokenize, options.split, options.n, options.seed)
    print(table(report))
    if options.out is not None:
        for path in write(report, experiment.data.modalities, options.out):
            print(f"wrote {path}")


if __name__ == "__main__":
    _cli.main(run)
