"""The emoji set as a TFDS builder: drawn, synthesised and written once as array_record; needs no TensorFlow."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import absl.logging
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from mmrep import paths
from mmrep.data.emoji import concepts
from mmrep.data.emoji.concepts import CATEGORIES, LANGUAGES, Concept
from mmrep.data.emoji.espeak import RATE, speak
from mmrep.errors import DataError

# clip name -> eSpeak voice. Voices with breath noise are avoided: they are not the same twice. Japanese and Mandarin are left out:
# eSpeak pronounces their characters as "Chinese letter".
TRAIN_CLIPS = {
    "en": "en-us", "en_m3": "en-us+m3", "en_linda": "en-gb-x-rp+linda",
    "de": "de", "fr": "fr+steph", "es": "es+m7", "it": "it+anika", "tr": "tr",
}  # fmt: skip
EVAL_CLIPS = TRAIN_CLIPS | {
    "en_unseen_voice": "en-us+f1", "pt": "pt", "id": "id", "ru": "ru", "ko": "ko", "fa": "fa", "ar": "ar",
}  # fmt: skip
SPLITS = (
    "train", "train_variants", "val", "test", "flags_train", "flags_val", "flags_test",
)  # fmt: skip
_LONGEST = int(2.5 * RATE)


def clips_of(split: str) -> dict[str, str]:
    """The clips that every record of the split has, in the order in which its samples are concatenated."""
    return TRAIN_CLIPS if "train" in split else EVAL_CLIPS


def prepare(folder: Path, size: int, limit: int = 0, progress: bool = True) -> Any:
    """The prepared builder under `folder`, preparing it first where it is not there. Safe to call from several processes.

    A killed preparation leaves only a folder named "...incomplete...", which is ignored. `limit` > 0 takes about that many families.

    Raises DataError where a package is missing or speech cannot be made.
    """
    for package in concepts.PACKAGES:
        concepts.file(package, ".")
    paths.make(folder)
    config = tfds.core.BuilderConfig(name=_config_name(size, limit))
    with quiet():
        builder = EmojiBuilder(data_dir=folder, config=config, file_format="array_record")
        builder.size, builder.limit, builder.progress = size, limit, progress
        if not _ready(builder):
            with paths.locked(folder, wait=True):
                if not _ready(builder):
                    builder.download_and_prepare(
                        download_config=tfds.download.DownloadConfig(compute_stats="skip", try_download_gcs=False)
                    )
    return builder


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences TFDS: its 21 bars and its advice to install OpenCV would hide the two bars of the preparation."""
    from tensorflow_datasets.core.utils import tqdm_utils

    verbosity, bars = absl.logging.get_verbosity(), getattr(tqdm_utils, "_active", True)
    absl.logging.set_verbosity(absl.logging.ERROR)
    tqdm_utils.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl.logging.set_verbosity(verbosity)
        tqdm_utils.display_progress_bar(bars)


def _ready(builder: Any) -> bool:
    return (Path(str(builder.data_path)) / "dataset_info.json").exists()


def _config_name(size: int, limit: int) -> str:
    """Contains everything that the prepared bytes depend on: another package version prepares the set again."""
    versions = "-".join(version(p) for p in concepts.PACKAGES)
    return f"{size}px-{versions}" + (f"-first{limit}" if limit else "")


with tfds.core.registered.skip_registration():

    class EmojiBuilder(tfds.core.GeneratorBasedBuilder):
        """One record a concept: its drawing and those of its skin tones, its names in 14 languages, and their speech."""

        VERSION = tfds.core.Version("1.1.0")  # 1.1.0: speech resampled by SciPy
        pkg_dir_path = None
        size = 64
        limit = 0
        progress = True

        def _info(self) -> Any:
            features = {
                "id": np.int32,
                "emoji": tfds.features.Text(),
                "family": tfds.features.Text(),
                "category": tfds.features.ClassLabel(names=list(CATEGORIES)),
                "keywords": tfds.features.Text(),
                "names": {language: tfds.features.Text() for language in LANGUAGES},
                # The drawing on white, and below it those of its skin tones: [size * (1 + tones), size, 3].
                "images": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                # All clips one after the other, int16 at 16 kHz, and the length of each.
                "speech": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes"),
                "speech_length": tfds.features.Tensor(shape=(None,), dtype=np.int32),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=concepts.ATTRIBUTION,
                features=tfds.features.FeaturesDict(features),
                license="Drawings CC BY-SA 4.0 (OpenMoji); names Unicode License v3 (CLDR)",
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            drawn = distinct(_first(concepts.concepts(), self.limit), self.size, self.progress)
            splits: dict[str, list[tuple[Concept, list[np.ndarray]]]] = {name: [] for name in SPLITS}
            for concept, pictures in drawn:
                if name := _split_of(concept):
                    splits[name].append((concept, pictures))
            speech = _speech({name: [c for c, _ in rows] for name, rows in splits.items()}, self.progress)
            return {
                name: self._generate_examples(rows, speech, clips_of(name)) for name, rows in splits.items() if rows
            }

        def _generate_examples(self, rows: Any, speech: Any, clips: dict[str, str]) -> Iterator[tuple[int, Any]]:
            for concept, pictures in rows:
                waves = [speech[concept.id, clip] for clip in clips]
                yield (
                    concept.id,
                    {
                        "id": concept.id,
                        "emoji": concept.emoji,
                        "family": concept.family,
                        "category": concept.category,
                        "keywords": "\n".join(concept.keywords),
                        "names": concept.names,
                        "images": _stack(pictures),
                        "speech": np.concatenate(waves),
                        "speech_length": np.array([len(w) for w in waves], np.int32),
                    },
                )


def distinct(found: Sequence[Concept], size: int, progress: bool = False) -> list[tuple[Concept, list[np.ndarray]]]:
    """(concept, drawings [size, size, 3]): concepts drawn exactly like an earlier one (Norway's flag is Bouvet's) are left out."""
    seen: set[bytes] = set()
    kept = []
    for concept in tqdm(found, "drawing emoji", unit=" emoji", leave=False, disable=not progress):
        picture = draw(concept.svg, size)
        if picture.tobytes() in seen:
            continue
        seen.add(picture.tobytes())
        # Couples in two skin tones come in up to 25 combinations: five are enough of one concept.
        step = max(1, len(concept.tones) // 5)
        kept.append((concept, [picture, *(draw(t, size) for t in concept.tones[::step][:5])]))
    return kept


def draw(svg: Path, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: the drawing on white."""
    import resvg_py
    from PIL import Image

    png = resvg_py.svg_to_bytes(
        svg_string=svg.read_text(encoding="utf-8"), width=size, height=size, background="white", skip_system_fonts=True
    )
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))


def _stack(pictures: list[np.ndarray]) -> io.BytesIO:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.concatenate(pictures)).save(file, "PNG", compress_level=3)
    file.seek(0)
    return file


def _first(found: Sequence[Concept], limit: int) -> Sequence[Concept]:
    """All, or whole families spread evenly over Unicode's order, about `limit` of them."""
    if not limit:
        return found
    families = list(dict.fromkeys(c.family for c in found))
    kept = set(families[:: max(1, len(families) // limit)])
    return [c for c in found if c.family in kept]


def _split_of(concept: Concept) -> str:
    side = concepts.side(concept.family)
    if concept.kind == "flag":
        return f"flags_{side}"
    if concept.kind == "variant":  # never a candidate: only an extra example in training
        return "train_variants" if side == "train" else ""
    return side


def _speech(splits: dict[str, list[Concept]], progress: bool) -> dict[tuple[int, str], np.ndarray]:
    """{(concept id, clip name): int16 [T] at 16 kHz}"""
    jobs, keys = [], []
    for name, rows in splits.items():
        for concept in rows:
            for clip, voice in clips_of(name).items():
                keys.append((concept.id, clip))
                jobs.append((voice, concept.names[clip.split("_")[0]]))
    with tqdm(total=len(jobs), desc="speech of names", unit=" clips", leave=False, disable=not progress) as bar:
        try:
            waves = speak(jobs, progress=bar.update)
        except (RuntimeError, OSError) as error:
            raise DataError(f"speech of the names could not be made: {error}") from error
    return {key: wave[:_LONGEST] for key, wave in zip(keys, waves)}


def cache_folder() -> Path:
    """The folder of the prepared set where none is named."""
    return paths.local_cache() / "data"
