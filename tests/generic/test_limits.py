"""Every number of every system's config, out of its range: accepted where it means something, else one sentence before the first step."""

import dataclasses
import math
import warnings

import pytest
from generic.shared import every_system

from mmrep import catalogue
from mmrep.errors import ConfigError

pytestmark = pytest.mark.spec

# 0 switches these off; the rest of the names have a sentence for 0.
OFF = {
    "alpha_warmup_steps", "answers", "attributes", "bins", "classes", "convs", "depth", "fusion_depth", "global_tokens", "identities", "lora_rank",
    "frequent", "fusion", "mask_steps", "patch", "prompt_depth", "prompts", "queue", "rate", "sampled", "size", "unseen", "warm", "window",
}  # fmt: skip


def numbers(node, path=()):
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        for f in dataclasses.fields(node):
            yield from numbers(getattr(node, f.name), (*path, f.name))
    elif isinstance(node, (tuple, list)):
        for i, inner in enumerate(node):
            yield from numbers(inner, (*path, i))
    elif isinstance(node, (int, float)) and not isinstance(node, bool):
        yield path, node


def changed(node, path, value):
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        return tuple(changed(v, rest, value) if i == step else v for i, v in enumerate(node))
    return dataclasses.replace(node, **{step: changed(getattr(node, step), rest, value)})


@every_system
def test_numbers_out_of_their_range_are_one_sentence(slug):
    """Whole numbers at 0 and -1, others at -1, infinite and not a number."""
    config = catalogue.experiment(slug, "tiny")
    if config.system is None:
        pytest.skip("no system to build")
    accepted = []
    for path, number in numbers(config.system):
        for value in (0, -1) if isinstance(number, int) else (-1.0, math.nan, math.inf):
            if value == number:
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    dataclasses.replace(config, system=changed(config.system, path, value)).system.build()
            except ConfigError as error:
                assert "\n" not in str(error)
            else:
                accepted.append(
                    (".".join(map(str, path)), value, next(p for p in reversed(path) if isinstance(p, str)))
                )
    signed = {"bias", "mean", "low", "high", "log_scale", "fill"}
    odd = [f"{p} = {v}" for p, v, name in accepted if not ((v == 0 and name in OFF) or (v == -1 and name in signed))]
    assert not odd, odd
