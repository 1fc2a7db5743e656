"""Every config at every size and variant goes through JSON, and its parameter tree is the stored one; nothing is computed."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import jax
import pytest
from generic.shared import configs, every_system

from mmrep import catalogue
from mmrep.config import flatten, from_json, to_json
from mmrep.data import pipeline
from mmrep.training import loop

pytestmark = pytest.mark.spec
GOLDEN = Path(__file__).parents[1] / "golden" / "specs"


def fold(tree: Any) -> Any:
    """A nested dict in which children of equal content are one entry with their names and their number:
    {"block00": x, "block01": x, "key": y, "value": y} -> {"block00..01 (2)": x, "key, value (2)": y}."""
    if not isinstance(tree, dict):
        return tree
    groups: dict[str, list[str]] = {}
    folded = {name: fold(tree[name]) for name in sorted(tree)}
    for name, content in folded.items():
        groups.setdefault(json.dumps(content, sort_keys=True), []).append(name)
    return {_together(names): folded[names[0]] for names in groups.values()}


def _together(names: list[str]) -> str:
    first, last = names[0], names[-1]
    stem = first.rstrip("0123456789")
    start, digits = int(first[len(stem) :] or 0), len(first) - len(stem)
    run = [f"{stem}{i:0{digits}d}" for i in range(start, start + len(names))]
    listed = f"{first}..{last[len(stem) :]}" if names == run else ", ".join(names)
    return first if len(names) == 1 else f"{listed} ({len(names)})"


def test_folding_names_and_counts_equal_children():
    block = {"attn": {"key": "x", "value": "x", "out": "y"}, "norm": "y"}
    tree = {f"block{i:02d}": block for i in range(12)} | {"last": block | {"norm": "z"}}
    once = {"attn/key, value (2)": "x", "attn/out": "y"}
    expected = {f"block00..11 (12)/{k}": v for k, v in (once | {"norm": "y"}).items()}
    expected |= {f"last/{k}": v for k, v in (once | {"norm": "z"}).items()}
    assert flatten(fold(tree)) == expected


@every_system
def test_configs_go_through_json(slug):
    for name, config in configs(slug).items():
        assert from_json(json.loads(json.dumps(to_json(config)))) == config, name


def test_a_model_that_starts_from_another_keeps_the_ids_of_its_words():
    """Where both have texts: a tokenizer fitted to other texts gives the words other ids, and the trained towers other words."""

    def ids(config, texts):
        tokenize = pipeline.load_tokenizer(config.data, pipeline.fit_tokenizer(config.data, config.sources, None))
        return [list(tokenize(t, 32)) for t in texts]

    compared = set()
    for slug in (e.slug for e in catalogue.entries()):
        for name, config in configs(slug).items():
            starts = [s.experiment for p in config.phases for s in p.start if s.experiment is not None]
            for donor in starts if name.startswith("tiny") else ():
                kinds = [e.data.tokenizer and e.data.tokenizer.kind for e in (config, donor)]
                if all(kinds) and "published" not in kinds:
                    texts = list(itertools.islice(donor.data.source.texts("train"), 8))
                    why = f"{slug} {name}: give data.tokenizer the sources of the model that it starts from"
                    assert ids(config, texts) == ids(donor, texts), why
                    compared.add(slug)
    assert {"unival", "uni_perceiver"} <= compared


@every_system
def test_the_parameter_tree_is_the_stored_one(slug):
    params, extras = jax.eval_shape(lambda: loop.initial(catalogue.experiment(slug, "tiny")))
    leaves = flatten({"params": params, "extras": extras})
    weak = [k for k, v in leaves.items() if getattr(v, "weak_type", False)]
    assert not weak, f"weakly typed leaves compile the step again: {weak}"
    shapes = jax.tree.map(lambda v: f"{v.dtype}{list(v.shape)}", {"params": params, "extras": extras})
    found = flatten(fold(shapes))
    path = GOLDEN / f"{slug}.json"
    if os.environ.get("MMREP_REGENERATE"):
        path.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")
    assert found == json.loads(path.read_text()), (
        "the parameter tree changed: if that was meant, run with MMREP_REGENERATE=1 and commit the file"
    )
