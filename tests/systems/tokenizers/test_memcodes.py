"""The vector tokenizer's behaviour; its parts are compared with the authors' in test_memcodes_model.py."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.systems.tokenizers.memcodes import Config, ids_to_vector, vector_to_ids

SMALL = Config("pose", (3, 2), (0.5,), (0.25,), heads=4, codes=5, width=16, blocks=1, expansion=2, loss="smooth_l1")
BATCH = {"pose": np.random.default_rng(0).random((8, 3, 2), np.float32)}


def start(config):
    system = config.build()
    system = system._replace(loss=jax.jit(system.loss), infer={k: jax.jit(f) for k, f in system.infer.items()})
    return system, *jax.jit(system.init)(jax.random.key(0), BATCH)


def test_ids_and_vectors_have_the_shapes_and_units_of_the_contract():
    system, params, extras = start(SMALL)
    ids = system.infer["tokenize"](params, extras, BATCH)
    assert ids.shape == (8, 4) and ids.dtype == jnp.int32 and 0 <= int(ids.min()) <= int(ids.max()) < 5
    back = system.infer["detokenize"](params, extras, {"ids": ids})
    assert back.shape == (8, 3, 2)
    np.testing.assert_allclose(back, system.infer["reconstruct"](params, extras, BATCH), atol=1e-6)
    np.testing.assert_array_equal(jax.jit(partial(vector_to_ids, SMALL))(params, extras, BATCH["pose"]), ids)
    decode = jax.jit(partial(ids_to_vector, SMALL))
    np.testing.assert_allclose(decode(params, extras, ids, jax.random.key(0)), back, atol=1e-6)
    # Each head has its own codes: another id in one place changes the vector.
    assert np.abs(decode(params, extras, (ids + jnp.eye(4, dtype=int)[1]) % 5) - back).max(-1).min() > 0


def test_a_cosine_tokenizer_decodes_unit_vectors():
    config = replace(SMALL, mean=(0.0,), std=(1.0,), loss="cosine")
    system, params, extras = start(config)
    back = system.infer["reconstruct"](params, extras, BATCH)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(back).reshape(8, -1), axis=1), 1, rtol=1e-5)
    # By hand: 1 - cosine, on the codes that the loss's key draws.
    one, _ = system.loss(params, extras, BATCH, jax.random.key(1))
    assert 0 <= float(one) <= 2


def test_it_learns_two_clusters_and_samples_in_training():
    system, params, extras = start(SMALL)
    batch = {"pose": np.repeat(BATCH["pose"][:2], 16, axis=0)}
    grad = jax.jit(jax.value_and_grad(lambda p, key: system.loss(p, extras, batch, key)[0]))
    values = {float(grad(params, jax.random.key(s))[0]) for s in range(3)}
    assert len(values) == 3
    for step in range(150):
        _, g = grad(params, jax.random.key(step))
        params = jax.tree.map(lambda p, d: p - 0.3 * d, params, g)
    error = np.abs(system.infer["reconstruct"](params, extras, batch) - batch["pose"]).mean()
    spread = np.abs(batch["pose"].mean(0) - batch["pose"]).mean()
    assert error < 0.5 * spread
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(g["codebook"]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"heads": 3}, "heads must divide"), ({"codes": 1}, "codes"), ({"loss": "mse"}, "loss"), ({"temperature": 0.0}, "positive"),
        ({"loss": "cosine"}, "origin"), ({"std": (0.0,)}, "positive"),
    ],
)  # fmt: skip
def test_impossible_configs_are_refused(change, says):
    config = replace(SMALL)
    for name, value in change.items():
        object.__setattr__(config, name, value)  # past the type checks of the tests
    with pytest.raises(ConfigError, match=says):
        config.build()
