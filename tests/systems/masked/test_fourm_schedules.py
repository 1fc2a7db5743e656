"""Numbers of fourm/utils/generation.py and fourm/models/generate.py at commit cda590f, run on these arguments."""

import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.systems.masked.fourm import schedules
from mmrep.systems.masked.fourm.schedules import Guidance, Target, chained_schedule, decoding_schedule


def test_token_schedules_equal_the_authors():
    assert schedules.cosine_schedule(8, 64).tolist() == [2, 7, 10, 12, 12, 10, 7, 4]
    assert schedules.cosine_schedule(6, 64).tolist() == [4, 12, 16, 16, 12, 4]
    assert schedules.cosine_schedule(3, 10).tolist() == [2, 5, 3]
    assert schedules.linear_schedule(3, 10).tolist() == [4, 3, 3]
    assert schedules.linear_schedule(5, 64).tolist() == [13, 13, 13, 13, 12]
    assert schedules.linear_schedule(12, 10).tolist() == [1] * 10


def test_temperature_schedules_equal_the_authors():
    tokens = schedules.linear_schedule(5, 64)
    np.testing.assert_allclose(schedules.linear_temperature(2.0, tokens), [2.0, 1.59375, 1.1875, 0.78125, 0.375])
    found = schedules.onex_temperature(6.0, 0.5, tokens, 0.5)
    np.testing.assert_allclose(found, [4.882812, 2.399903, 1.434102, 0.864753, 0.5], atol=1e-6)


def test_chained_schedules_grow_their_conditioning():
    first, second = chained_schedule(["semseg", "rgb"], ("caption",), 3.0, grow_conditioning=True, decoding_steps=4)
    assert first.guidance == (Guidance(("caption",), 3.0),)
    assert second.guidance == (Guidance(("caption", "semseg"), 3.0),)
    assert chained_schedule(["rgb"], ("caption",))[0].guidance == ()
    scheduled = decoding_schedule(Target("rgb", "roar", 5, temperature=2.0, temperature_schedule="linear"), 64)
    assert sum(step.num_tokens for step in scheduled) == 64


def test_scales_of_their_own_are_conditions_of_their_own():
    (rgb, text) = chained_schedule(
        ["rgb", "caption"], ("depth", "semseg"), 2.0, scales={"depth": -0.5}, sequences=("caption",), scheme="roar"
    )
    assert rgb.guidance == text.guidance == (Guidance(("semseg",), 2.0), Guidance(("depth",), -0.5))
    assert (rgb.scheme, text.scheme) == ("roar", "autoregressive")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheme": "maskgot"}, "scheme"), ({"decoding_steps": 0}, "decoding_steps"), ({"top_p": 1.2}, "top_p"), ({"top_k": 2.5}, "top_k"),
        ({"temperature": -1.0}, "temperature"), ({"temperature_schedule": "onex:1"}, "onex:END:POWER"),
        ({"temperature_schedule": "liner"}, "linear"),
    ],
)  # fmt: skip
def test_impossible_targets_are_refused(change, message):
    target = Target("rgb")
    for name, value in change.items():
        object.__setattr__(target, name, value)  # the tests' type checks would refuse it first
    with pytest.raises(ConfigError, match=message):
        decoding_schedule(target, 64)
