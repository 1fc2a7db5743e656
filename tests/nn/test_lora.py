from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.config import flatten, unflatten
from mmrep.errors import ConfigError
from mmrep.nn import lora

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "lora.npz")
BASE = unflatten({k: GOLDEN[k] for k in GOLDEN.files if k.split("/")[0] in ("up", "down")})
SCALE = 5 / 3


def model(params, x):
    y = jax.nn.relu(x @ params["up"]["kernel"] + params["up"]["bias"])
    return y @ params["down"]["kernel"] + params["down"]["bias"]


def under(prefix):
    return unflatten({k.removeprefix(prefix): GOLDEN[k] for k in GOLDEN.files if k.startswith(prefix)})


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_outputs_and_gradients_are_peft_s(kind):
    adapters = {k: v for k, v in under(f"{kind}/").items() if k in ("up", "down")}
    output = lambda a: model(lora.merge(BASE, a, SCALE), GOLDEN["x"])  # noqa: E731
    np.testing.assert_allclose(output(adapters), GOLDEN[f"{kind}/y"], atol=1e-5)
    found, want = flatten(jax.grad(lambda a: (output(a) ** 2).sum())(adapters)), flatten(under(f"{kind}/grad/"))
    assert {*found} == {*want}
    for path, g in found.items():
        np.testing.assert_allclose(g, want[path], atol=1e-3, rtol=1e-5, err_msg=path)


def test_at_the_start_it_is_the_frozen_model():
    plain, dora = (lora.init(jax.random.key(0), BASE, ".*", 3, magnitude=m) for m in (False, True))
    assert {k: v.shape for k, v in flatten(plain).items()} == {
        "up/a": (6, 3), "up/b": (3, 10), "down/a": (10, 3), "down/b": (3, 4),
    }  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, lora.merge(BASE, plain, 2.0), BASE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), lora.merge(BASE, dora, 2.0), BASE)
    for name in ("up", "down"):
        np.testing.assert_allclose(dora[name]["magnitude"], GOLDEN[f"dora/start/{name}"], rtol=1e-6)
        assert np.abs(plain[name]["a"]).max() <= len(BASE[name]["kernel"]) ** -0.5
    trained = jax.tree.map(jnp.ones_like, plain)
    jax.tree.map(np.testing.assert_array_equal, lora.merge(BASE, trained, 0.0), BASE)


def test_stacked_layers_have_one_adapter_each_and_only_the_pattern_s():
    stack = jax.random.normal(jax.random.key(1), (2, 6, 8))
    params = {
        "blocks": {"attn": {"query": {"kernel": stack}, "out": {"kernel": stack}}},
        "conv": {"kernel": jnp.ones((3, 3, 1, 2))},
    }
    found = lora.init(jax.random.key(0), params, ".*/query", 2, magnitude=True)
    assert [*flatten(found)] == [f"blocks/attn/query/{k}" for k in ("a", "b", "magnitude")]
    leaf = found["blocks"]["attn"]["query"]
    leaf["b"] = jax.random.normal(jax.random.key(2), leaf["b"].shape)
    merged = lora.merge(params, found, 0.5)["blocks"]["attn"]
    np.testing.assert_array_equal(merged["out"]["kernel"], stack)
    for i in range(2):
        one = lora.merge({"d": {"kernel": stack[i]}}, {"d": {k: v[i] for k, v in leaf.items()}}, 0.5)["d"]["kernel"]
        np.testing.assert_allclose(merged["query"]["kernel"][i], one, rtol=1e-5)
    half = {"d": {"kernel": stack[0].astype(jnp.bfloat16)}}
    assert lora.merge(half, lora.init(jax.random.key(0), half, "d", 1), 1.0)["d"]["kernel"].dtype == jnp.bfloat16
    zero = {"d": {"kernel": jnp.zeros((2, 2))}}
    assert np.isfinite(lora.merge(zero, lora.init(jax.random.key(0), zero, "d", 1, True), 1.0)["d"]["kernel"]).all()


def test_what_does_not_fit_is_one_sentence():
    with pytest.raises(ConfigError, match="lora_rank is 0"):
        lora.init(jax.random.key(0), BASE, ".*", 0)
    with pytest.raises(ConfigError, match="lora_pattern 'side' matches no Dense layer's path; there are down, up"):
        lora.init(jax.random.key(0), BASE, "side", 1)
    adapters = lora.init(jax.random.key(0), BASE, "up", 1)
    with pytest.raises(ConfigError, match=r"the adapter of up is for \[6, 10\]; the kernel is absent"):
        lora.merge({"down": BASE["down"]}, adapters, 1.0)
