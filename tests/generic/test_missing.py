"""Any missing modality of a fusion system: what was dropped changes nothing, in training and at test, or the system refuses by its name.

A batch marks a missing modality of a row by the sign that the system documents (`SIGNS`). Where it has none, every row has the modality: its
infer functions of the others need no entry of it, and those that do need it name it, which `Model.call` makes a sentence.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from generic import shared
from generic.shared import SLUGS, assert_close

from mmrep import catalogue, modality
from mmrep.config import flatten
from mmrep.errors import ConfigError, DataError
from mmrep.modality import Modality

pytestmark = pytest.mark.step
FUSION = [e.slug for e in catalogue.entries() if e.family == "fusion" and e.slug in SLUGS] + ["tefal"]
every_fusion = pytest.mark.parametrize("slug", FUSION)
Mark = Callable[[dict, np.ndarray], dict]


def sign(m: Modality, names: set[str]) -> Mark | None:
    """(batch, rows) -> the batch in which modality `m` of these rows is missing; None where the batch has no sign of it."""
    if m.missing:  # the first number alone is NaN: a vector with a missing number is missed as a whole
        first = (slice(None), *[0] * len(m.shape))
        return lambda b, rows: (
            b | {m.name: np.where(_only(b[m.name], first) & _like(rows, b[m.name]), np.nan, b[m.name])}
        )
    if m.name == "sound" and "sounds" in names:
        return lambda b, rows: b | {"sounds": np.where(rows, 0, np.maximum(b["sounds"], 1)).astype(np.int32)}
    if m.name in ("mention_image", "entity_image") and "present" in names:
        column = ("mention_image", "entity_image").index(m.name)
        return lambda b, rows: (
            b | {"present": np.where(rows[:, None] & (np.arange(2) == column), 0, 1).astype(np.float32)}
        )
    return None


def _only(x: np.ndarray, at: tuple) -> np.ndarray:
    found = np.zeros(x.shape, bool)
    found[at] = True
    return found


def _like(rows: np.ndarray, x: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, *[1] * (x.ndim - 1))


def inputs(m: shared.OneStep) -> list[Modality]:
    """The modalities that a record may lack: no labels, ids or signs."""
    signs = {"present", "sounds", "told", "shown"}
    return [x for x in m.config.data.modalities if x.kind not in ("label", "ids", "map") and x.name not in signs]


def signed(m: shared.OneStep) -> list[tuple[Modality, Mark]]:
    names = {x.name for x in m.config.data.modalities}
    return [(x, mark) for x in inputs(m) if (mark := sign(x, names)) is not None]


def other_values(x: Modality, batch: dict, rows: np.ndarray) -> dict:
    """`batch` with other values of modality `x` in `rows`, large ones where they are numbers."""
    drawn = modality.example([x], len(rows), seed=7)
    drawn[x.name] = drawn[x.name] * 30 if x.kind == "vector" and not x.missing else drawn[x.name]
    return batch | {k: np.where(_like(rows, v), v, batch[k]).astype(batch[k].dtype) for k, v in drawn.items()}


def counted(name: str, found: Any) -> Any:
    """A result without what it marks as padding: the rows of tokens that are not valid."""
    if not name.endswith("_tokens"):
        return found
    tokens, valid = found
    return np.where(valid[..., None], tokens, 0.0), valid


def patterns(m: shared.OneStep) -> dict[str, np.ndarray]:
    n = len(next(iter(m.batch.values())))
    return {"every other row": np.arange(n) % 2 == 1, "every row": np.ones(n, bool)}


@every_fusion
def test_training_does_not_depend_on_what_was_dropped(slug):
    m = shared.one_step(slug)
    if not signed(m):
        pytest.skip("no modality may be missing in training")
    for x, mark in signed(m):
        for which, rows in patterns(m).items():
            steps = [m.step(m.before, mark(b, rows)) for b in (dict(m.batch), other_values(x, dict(m.batch), rows))]
            (after, metrics), (again, _) = steps
            name = f"{x.name}, {which}"
            assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"]) and metrics["skips"] == 0, (
                name,
                metrics,
            )
            for path, value in flatten(jax.tree.map(np.asarray, after["params"])).items():
                assert np.isfinite(value).all(), (name, path)
            assert_close(after["params"], again["params"], name, atol=1e-6)


@every_fusion
def test_infer_does_not_depend_on_what_was_dropped(slug):
    """Of the functions that have other inputs, too: a vector of the dropped modality alone is that of the given values."""
    m = shared.one_step(slug)
    if not signed(m):
        pytest.skip("no modality may be missing")
    for x, mark in signed(m):
        for which, rows in patterns(m).items():
            one, two = (m.infer(mark(b, rows)) for b in (dict(m.batch), other_values(x, dict(m.batch), rows)))
            for name, found in one.items():
                assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)), (x.name, which, name)
                if not (name == x.name or name.startswith(f"{x.name}_") or name.endswith(f"_of_{x.name}")):
                    assert_close(counted(name, found), counted(name, two[name]), f"{name} without {x.name}, {which}")


@every_fusion
def test_without_an_entry_infer_works_or_names_it(slug):
    m = shared.one_step(slug)
    for x in inputs(m):
        rest = {k: v for k, v in m.batch.items() if k not in (x.name, f"{x.name}_length")}
        works = []
        for name in m.system.infer:
            try:
                m.shapes(name, rest)
                works.append(name)
            except KeyError as error:
                assert error.args == (x.name,), f"{name} without {x.name}: {error!r}"
            except ConfigError as error:
                assert x.name in str(error) and "\n" not in str(error), error
        joint = [n for n in works if n.startswith(("fused", "written", "matched", "trace")) or n.endswith("_logits")]
        for name, found in m.infer(rest, joint).items() if joint else ():
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)), (x.name, name)


@every_fusion
def test_a_missing_value_without_a_sign_is_refused(slug):
    """What stands for nothing in tables: no modality takes it for a value."""
    m = shared.one_step(slug)
    for x in (x for x in inputs(m) if not x.missing):
        for nothing in (None, float("nan"), np.full(x.shape, np.nan)):
            with pytest.raises(DataError) as refused:
                modality.encode(x, nothing, m.tokenize)
            assert x.name in str(refused.value) and "\n" not in str(refused.value)
