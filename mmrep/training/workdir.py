"""A run's folder: whose it is, and what stands in it before the first step."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from mmrep import paths
from mmrep.config import Experiment, differences, fingerprint, to_json
from mmrep.data import pipeline
from mmrep.errors import ConfigError

# Fields that may change between the parts of one run: they do not change what is learnt.
FREE = ("evals", "mesh", "sharding", "train.log_every", "train.eval_every", "train.checkpoint_every",
        "train.keep_checkpoints", "data.workers", "data.prefetch", "data.eval_batch_size", "data.max_bad_records", "system.large_batch")  # fmt: skip


def versions() -> dict[str, str]:
    """What ran: Python, the libraries that decide numbers, and the devices."""
    names = (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "numpy",
        "sentencepiece",
        "tensorflow-datasets",
    )
    device = jax.devices()[0]
    return {"python": platform.python_version(), "devices": f"{jax.device_count()} x {device.device_kind}"} | {
        n: version(n) for n in names
    }


def open_workdir(experiment: Experiment, workdir: Path | None, meta: Mapping[str, Any] | None) -> bytes | None:
    """Checks that `workdir` is new or holds this experiment, and returns its tokenizer (fitting it on the first run).

    A kill at any moment leaves a folder that the next run takes up: config.json comes first, and every file whole.
    """
    sources = list(
        {fingerprint(s): s for s in [experiment.data.source, *[p.data for p in experiment.phases if p.data]]}.values()
    )
    cache = paths.cache() / "tokenizers"
    if workdir is None:
        return pipeline.fit_tokenizer(experiment.data, sources, cache)
    stored = to_json(experiment)
    path, model_path = workdir / "config.json", workdir / "tokenizer.model"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))["experiment"]
        changed = [d for d in differences(before, stored) if not d.startswith(FREE)]
        if changed:
            raise ConfigError(
                f"{workdir} holds a run of another config ({'; '.join(changed[:3])}): give the same settings or another --workdir"
            )
    elif workdir.exists() and any(f.name != f".{path.name}.part" for f in workdir.iterdir()):
        raise ConfigError(f"{workdir} is not empty and holds no run (no config.json): give another --workdir")
    kept = model_path.exists()
    model = model_path.read_bytes() if kept else pipeline.fit_tokenizer(experiment.data, sources, cache)
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        about = {**(meta or {}), "experiment": stored, "fingerprint": fingerprint(experiment), "versions": versions()}
        paths.replace(path, json.dumps(about, indent=1, ensure_ascii=False))
        if model is not None and not kept:
            paths.replace(model_path, model)
    return model
