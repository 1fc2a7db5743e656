"""The vector tokenizer's parts against apple/ml-4m at cda590f: BottleneckMLP and Memcodes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn.transformer import stack_blocks
from mmrep.systems.tokenizers.memcodes import model

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "tokenisers.npz")


def linear(weight, bias):
    return {"kernel": jnp.asarray(weight.T), "bias": jnp.asarray(bias)}


def norm(weights, name):
    return {"scale": jnp.asarray(weights[f"{name}.weight"]), "bias": jnp.asarray(weights[f"{name}.bias"])}


def theirs(prefix):
    return {k.removeprefix(f"{prefix}/w/"): GOLDEN[k] for k in GOLDEN.files if k.startswith(f"{prefix}/w/")}


def test_bottleneck_mlp_is_the_authors_looped_or_scanned():
    w = theirs("mlp")
    found = {
        "in": linear(w["linear_in.weight"], w["linear_in.bias"]),
        "out": linear(w["linear_out.weight"], w["linear_out.bias"]),
    }
    for i in range(2):
        up, down = (linear(w[f"blocks.{i}.block.{k}.weight"], w[f"blocks.{i}.block.{k}.bias"]) for k in (0, 2))
        found[f"block{i:02d}"] = {"norm": norm(w, f"layernorms.{i}"), "mlp": {"up": up, "down": down}}
    x = jnp.asarray(GOLDEN["mlp/x"])
    np.testing.assert_allclose(
        model.BottleneckMlp(8, 2, 3).apply({"params": found}, x), GOLDEN["mlp/y"], rtol=2e-5, atol=2e-5
    )
    scanned = model.BottleneckMlp(8, 2, 3, scan=True).apply({"params": stack_blocks(found)}, x)
    np.testing.assert_allclose(scanned, GOLDEN["mlp/y"], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("heads", [1, 4])
def test_product_quantiser_is_the_authors(heads):
    """Memcodes(dim=12, codebook_size=7) of apple/ml-4m at cda590f, in evaluation, and in training with the Gumbel noise given."""
    theirs = {k.split("/")[1]: GOLDEN[k] for k in GOLDEN.files if k.startswith(f"mem{heads}/")}
    params = {k: jnp.asarray(theirs[k]) for k in ("codes", "key", "value")}
    x = jnp.asarray(theirs["x"])
    y, ids = jax.jit(model.product_quantise)(params, x)
    np.testing.assert_array_equal(np.moveaxis(ids, -1, 1), theirs["ids"])
    np.testing.assert_allclose(y, theirs["y"], atol=1e-5)
    np.testing.assert_allclose(model.product_values(params, ids), theirs["y"], atol=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.jax.random, "gumbel", lambda key, shape: jnp.asarray(theirs["noise"]).reshape(shape))

        def drawn(params, x):
            y, _ = model.product_quantise(params, x, jax.random.key(0))
            return (y * jnp.arange(12.0)).sum(), y

        (g, gx), y = jax.grad(drawn, argnums=(0, 1), has_aux=True)(params, x)
    np.testing.assert_allclose(y, theirs["train_y"], atol=1e-5)
    np.testing.assert_allclose(gx, theirs["gx"], atol=1e-4)
    for name in params:
        np.testing.assert_allclose(g[name], theirs[f"g{name}"], rtol=1e-4, atol=1e-4, err_msg=name)


def test_a_product_codebook_samples_its_codes_in_training():
    params = model.product_codebook(jax.random.key(0), 2, 5, 8)
    assert {k: v.shape for k, v in params.items()} == {"codes": (2, 5, 4), "key": (2, 4, 4), "value": (2, 4, 4)}
    x = jnp.zeros((400, 8))  # all codes equally likely
    ids = model.product_quantise(params, x, jax.random.key(1))[1]
    counts = np.stack([np.bincount(column, minlength=5) for column in np.asarray(ids).T])
    assert counts.min() > 50 and counts.max() < 115
    assert (np.asarray(model.product_quantise(params, x)[1]) == 0).all()


def test_a_vector_codec_keeps_shapes():
    codec = model.vector_codec(5, 8, 1)
    params = jax.jit(codec.init)(jax.random.key(0))
    assert codec.decode(params, codec.encode(params, jnp.zeros((3, 5)))).shape == (3, 5)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="heads must divide"):
        model.product_codebook(jax.random.key(0), 3, 4, 8)
