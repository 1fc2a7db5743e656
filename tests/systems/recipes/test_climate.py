"""The climate recipe: holes are inputs, targets are not, and units are right."""

import numpy as np
import pytest

from configs.recipes import climate
from mmrep.data.climate import COVER, Climate


@pytest.fixture(scope="module")
def records():
    return [*Climate(sample=True).open("train")]


def test_a_missing_variable_is_not_among_the_given():
    for e in (climate.AIR, climate.WINDS, climate.MOIST):
        assert e.map not in e.given and {m.name for m in e.given} <= {m.name for m in climate.MAPS}
        assert climate.HOLES in e.given and climate.RELIEF in e.given
    # Auxiliary inputs are no tasks, and the variable that is probed is no input.
    tasks = {t.output_domain for t in climate.TASKS}
    assert not tasks & {m.name for m in climate.GIVEN}
    assert "wspd" not in {m.name for m in climate.MAPS}


def test_maps_are_standardised_by_what_was_observed(records):
    for m in (climate.SST, climate.AIRT, climate.SPEH, climate.WIND, climate.SLP):
        seen = np.stack([r[f"{m.name}_observed"] for r in records])
        values = np.asarray(m.standard(np.stack([r[m.name] for r in records])))[seen]
        # Two months; the statistics are of twelve.
        assert np.abs(values.mean(0)).max() < 0.5 and values.std(0).min() > 0.5 and values.std(0).max() < 1.6, m.name


def test_the_map_of_holes_marks_all_missing_values(records):
    for r in records[:20]:
        every = np.logical_and.reduce([r[f"{v}_observed"] for v in ("sst", "airt", "speh", "wind", "slp")])
        assert every[r["cover"] == COVER.index("observed")].all()
        assert climate.HOLES.classes == len(COVER)
