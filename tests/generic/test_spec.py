"""What holds for every config at every size and variant, found without computing anything."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from generic.shared import every_system

from mmrep import catalogue, modality
from mmrep.config import Experiment, Mesh, flatten, from_json, to_json
from mmrep.errors import ConfigError
from mmrep.training import loop, sharding

pytestmark = pytest.mark.spec
GOLDEN = Path(__file__).parents[1] / "golden" / "specs"


def configs(slug: str) -> dict[str, Experiment]:
    """{"size" or "size variant": config}. A system may have a variant at some of its sizes only, but at one at least."""
    entry = catalogue.find(slug)
    found = {size: catalogue.experiment(slug, size) for size in entry.sizes}
    for variant in entry.variants:
        made = {}
        for size in entry.sizes:
            with contextlib.suppress(ConfigError):
                made[f"{size} {variant}"] = catalogue.experiment(slug, size, variant)
        assert made, f"no size has the variant {variant!r}"
        found |= made
    return found


def to_text(config: Any) -> str:
    return json.dumps(to_json(config), sort_keys=True)


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
    run = [f"{stem}{i:0{len(first) - len(stem)}d}" for i in range(int(first[len(stem) :] or 0), 10**4)][: len(names)]
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


@every_system
def test_every_config_builds_and_its_loss_keeps_the_contract(slug):
    # Sizes and variants that differ only in data, steps or optimiser are traced once.
    different = {
        (to_text(c.system), *(to_text(p.system) for p in c.phases), c.data.modalities): (name, c)
        for name, c in configs(slug).items()
    }
    one_device = sharding.make_mesh(Mesh(1, 1))
    for name, config in different.values():
        batch = jax.eval_shape(
            lambda m=config.data.modalities: {k: jnp.asarray(v) for k, v in modality.example(m, 4).items()}
        )
        params, extras = jax.eval_shape(config.system.build().init, jax.random.key(0), batch)
        systems = {to_text(s): s for s in (p.system or config.system for p in config.phases if p.run is None)}
        for system in systems.values():
            with jax.set_mesh(one_device):  # a ring needs a mesh
                value, (kept, metrics) = jax.eval_shape(system.build().loss, params, extras, batch, jax.random.key(0))
            assert value.shape == () and value.dtype == jnp.float32, name
            same = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
            assert same(kept) == same(extras), name
            assert all(m.shape == () for m in metrics.values()), name
