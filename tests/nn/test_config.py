from dataclasses import replace

import pytest

from mmrep.errors import ConfigError
from mmrep.nn.config import VARIANTS, TransformerConfig, variant
from mmrep.nn.encoders.conv import ConvEncoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder


def unchecked(config, **changes):
    """A config as it is outside the test suite, whose type checker would refuse the values first."""
    other = object.__new__(type(config))
    for name, value in {**vars(config), **changes}.items():
        object.__setattr__(other, name, value)
    return other


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (TransformerConfig(), {"width": 0}, "width is 0"),
        (TransformerConfig(), {"depth": -1}, "depth is -1"),
        (TransformerConfig(scan=True), {"depth": 0}, "depth is 0"),
        (TransformerConfig(), {"heads": 5}, "choose heads that divide"),
        (TransformerConfig(), {"kv_heads": 3}, "kv_heads is 3"),
        (TransformerConfig(), {"kv_heads": 0}, "kv_heads is 0"),
        (TransformerConfig(), {"rotary": 0.0}, "positive base"),
        (TransformerConfig(width=12), {"rotary": 10.0}, "even head"),
        (TransformerConfig(), {"norm_type": "batch"}, "choose from layer, rms"),
        (TransformerConfig(), {"use_bias": "all"}, "use_bias"),
        (TransformerConfig(), {"mlp_ratio": 0.0}, "hidden unit"),
        (TransformerConfig(), {"drop_path": 1.0}, "drop_path"),
        (TransformerConfig(), {"norm": "mid"}, "choose from post, pre"),
        (TransformerConfig(), {"activation": "gelo"}, "did you mean 'gelu'"),
        (TransformerConfig(), {"implementation": "flash"}, "choose from cudnn, matmul, xla"),
        (ImageEncoder(), {"pool": "max"}, "did you mean 'map'"),
        (ImageEncoder(), {"positions": "rope"}, "positions"),
        (ImageEncoder(), {"patch": 0}, "patch"),
        (TextEncoder(), {"pool": "max"}, "pool"),
        (TextEncoder(), {"pool": "cls", "causal": True}, "causal"),
        (ConvEncoder(), {"pool": "max"}, "pool"),
    ],
)
def test_a_wrong_value_is_one_sentence(config, change, message):
    with pytest.raises(ConfigError, match=message):
        unchecked(config, **change).__post_init__()


def test_hidden_width_of_the_mlp():
    config = TransformerConfig(width=48, mlp_ratio=4.0)
    assert config.hidden == 192
    assert replace(config, activation="swiglu").hidden == 128
    assert replace(config, activation="swiglu", mlp_dim=100).hidden == 100


def test_published_sizes():
    """Parameters of the blocks, in millions, as the papers count them (Dosovitskiy et al. 2021; Zhai et al. 2022, table 2)."""
    for name, millions in {"Ti": 5.5, "S": 22, "B": 86, "L": 303, "H": 631, "g": 1011, "G": 1843}.items():
        config, patch = variant(f"{name}/14")
        found = config.depth * (4 * config.width**2 + 2 * config.width * config.hidden) / 1e6
        assert patch == 14 and abs(found / millions - 1) < 0.04, (name, found)
    assert variant("B/32", scan=True) == (TransformerConfig(width=768, depth=12, heads=12, scan=True), 32)
    assert all(variant(f"{name}/1")[0].hidden == mlp for name, (_, _, mlp, _) in VARIANTS.items())


@pytest.mark.parametrize(("name", "message"), [("X/16", "no size"), ("B", "no patch"), ("B/x", "no patch")])
def test_an_unknown_variant_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        variant(name)
