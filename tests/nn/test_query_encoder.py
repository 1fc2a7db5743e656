"""The query encoder's three modes: who has an effect on whom."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.query_encoder import QueryEncoder

MODEL = QueryEncoder(TransformerConfig(width=16, depth=2, heads=2, norm="post"), 3, 20, 6)
CONTEXT = jax.random.normal(jax.random.key(0), (2, 5, 8))
VALID = jnp.array([[True] * 5, [True] * 3 + [False] * 2])
IDS = np.array([[1, 7, 8, 2, 0, 0], [1, 9, 10, 11, 2, 0]], np.int32)


@pytest.fixture(scope="module")
def run():
    params = jax.jit(lambda k: MODEL.init(k, CONTEXT, VALID, IDS, "generate"))(jax.random.key(1))["params"]
    assert "cross" in params["block00"] and "cross" not in params["block01"]
    apply = jax.jit(lambda c, i, mode: MODEL.apply({"params": params}, c, VALID, i, mode), static_argnums=2)
    return params, apply


def moved(x, y):
    return np.abs(np.asarray(x) - np.asarray(y)).max((0, 2)) > 1e-6


def test_modes_mask_as_figure_2(run):
    _, apply = run
    other, clip = IDS.copy(), CONTEXT.at[:, 0].add(3.0)
    other[:, 2] = 12
    for mode, queries, text in (("contrast", False, True), ("match", True, True), ("generate", False, None)):
        (q, t), (q2, t2) = apply(CONTEXT, IDS, mode), apply(CONTEXT, other, mode)
        assert moved(q, q2).all() == queries and moved(q, q2).any() == queries
        at = moved(t, t2)
        assert at[:5].all() if text else at.tolist()[:4] == [False, False, True, True]
        (q3, t3) = apply(clip, IDS, mode)
        assert moved(q, q3).all() and moved(t, t3).any() == (mode != "contrast")


def test_each_side_alone_is_its_own_in_contrast(run):
    params, apply = run
    q, t = apply(CONTEXT, IDS, "contrast")
    alone = MODEL.apply({"params": params}, CONTEXT, VALID)
    text = MODEL.apply({"params": params}, None, None, IDS)
    np.testing.assert_allclose(alone[0], q, atol=1e-6)
    seen = IDS > 0
    np.testing.assert_allclose(np.asarray(text[1])[seen], np.asarray(t)[seen], atol=1e-6)
    assert alone[1] is None and text[0] is None
    padded = MODEL.apply({"params": params}, CONTEXT.at[1, 3:].set(9.0), VALID)
    np.testing.assert_array_equal(padded[0], alone[0])
    with pytest.raises(ConfigError, match="mode 'match' needs"):
        MODEL.apply({"params": params}, CONTEXT, VALID, None, "match")


def test_generation_has_a_start_of_its_own(run):
    _, apply = run
    other = IDS.copy()
    other[:, 0] = 13
    np.testing.assert_array_equal(apply(CONTEXT, IDS, "generate")[1], apply(CONTEXT, other, "generate")[1])
    assert moved(apply(CONTEXT, IDS, "match")[1], apply(CONTEXT, other, "match")[1]).any()


@pytest.mark.parametrize("remat", [False, True])
def test_scanned_layers_equal_the_loop(remat):
    shape = TransformerConfig(width=16, depth=4, heads=2, norm="post")
    looped = QueryEncoder(shape, 3, 20, 6)
    scanned = QueryEncoder(replace(shape, scan=True, remat=remat), 3, 20, 6)
    params = looped.init(jax.random.key(0), CONTEXT, VALID, IDS, "generate")["params"]
    groups = [{"layer0": params[f"block{i:02d}"], "layer1": params[f"block{i + 1:02d}"]} for i in (0, 2)]
    stacked = {k: v for k, v in params.items() if not k.startswith("block")}
    stacked["blocks"] = jax.tree.map(lambda *x: jnp.stack(x), *groups)
    for mode in ("contrast", "match", "generate"):
        ours, expected = (
            m.apply({"params": p}, CONTEXT, VALID, IDS, mode) for m, p in ((scanned, stacked), (looped, params))
        )
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), ours, expected)
    with pytest.raises(ConfigError, match="depth 3 cannot be scanned in groups of 2"):
        QueryEncoder(replace(shape, depth=3, scan=True), 3, 20, 6).init(jax.random.key(0), CONTEXT)
