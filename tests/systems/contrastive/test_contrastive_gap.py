"""The contrastive gap: hand values of the authors' terms, and the starts of its controlled experiment."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from configs.contrastive.contrastive_gap import CLIP, get_config, vectors
from mmrep import modality
from mmrep.config import Phase
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Arrays, Table
from mmrep.errors import ConfigError
from mmrep.evals.suite import evaluate
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.nn.encoders.vector import VectorEncoder
from mmrep.systems.contrastive.contrastive_gap import CUAXU, Config, Weights, gap_loss
from mmrep.training.loop import train

X = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
Y = jnp.array([[0.6, 0.8], [-0.6, 0.8], [0.0, -1.0]])
PAIR = (("first", VectorEncoder()), ("second", VectorEncoder()))


def test_hand_values_of_the_terms():
    value, terms = gap_loss(X, Y, 100.0, CUAXU)
    np.testing.assert_allclose(terms["uniform"], -4.1743546, rtol=1e-6)
    np.testing.assert_allclose(terms["cross"], -2.1874727, rtol=1e-6)
    np.testing.assert_allclose(terms["align"], 1.0666667, rtol=1e-6)
    np.testing.assert_allclose(terms["clip"], symmetric_info_nce(X, Y, 100.0).mean(), rtol=1e-6)
    np.testing.assert_allclose(value, sum(terms.values()), rtol=1e-6)
    np.testing.assert_allclose(gap_loss(X, Y, 100.0, Weights(1, 0, 0, 0))[0], terms["clip"], rtol=1e-6)


def test_the_gradient_is_finite_where_pairs_coincide():
    slope = jax.jit(jax.grad(lambda x: gap_loss(x, X, 100.0, CUAXU)[0]))(X)
    assert np.isfinite(slope).all()


@pytest.mark.mesh
def test_sharding_does_not_change_the_loss():
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(v / np.linalg.norm(v, axis=1, keepdims=True), jnp.float32) for v in rng.normal(size=(2, 8, 4)))
    rows = NamedSharding(jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec("data"))
    whole, parts = jax.jit(lambda x, y: gap_loss(x, y, 10.0, CUAXU)[0]), [jax.device_put(v, rows) for v in (x, y)]
    np.testing.assert_allclose(whole(x, y), whole(*parts), rtol=1e-5)


def test_starts():
    batch = {n: jnp.asarray(np.random.default_rng(0).standard_normal((64, 32)), jnp.float32) for n in ("first", "second")}  # fmt: skip
    distances = []
    for cones in (1, 2):
        system = Config(PAIR, 32, offset=1.1, cones=cones).build()
        params, _ = system.init(jax.random.key(0), batch)
        x, y = (system.infer[n](params, {}, batch) for n in ("first", "second"))
        np.testing.assert_allclose(jnp.linalg.norm(x, axis=1), 1, rtol=1e-5)
        assert not np.allclose(x, y)  # the weights differ, even where the offset is one
        distances.append(float(jnp.linalg.norm(x.mean(0) - y.mean(0))))
    assert distances[0] < 0.25 and distances[1] > 0.8
    assert "offset" not in Config(PAIR, 32).build().init(jax.random.key(0), batch)[0]


def test_a_table_of_eight_pictures_and_captions(tmp_path):
    from PIL import Image

    rows = ["image,caption"]
    for i in range(8):
        Image.fromarray(np.full((40, 32, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,grey number {i}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    tiny = get_config("tiny")
    parts = modality.image("image", 32), modality.text("text", 40, 64, field="text")
    data = replace(tiny.data, source=Table(tmp_path / "pairs.csv", fractions=(1.0, 0.0, 0.0)), modalities=parts)
    split = open_split(data, lambda words, length: np.arange(length, dtype=np.int32), "train")
    batch, system = collate([split.entry(i) for i in range(8)]), tiny.system.build()
    value, _ = system.loss(system.init(jax.random.key(0), batch)[0], {}, batch, jax.random.key(0))
    assert np.isfinite(value)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"encoders": PAIR[:1]}, "give two"),
        ({"encoders": (*PAIR[:1], ("offset", VectorEncoder()))}, "offset"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"cones": 3}, "cones is 3"),
        ({"clip": 0.0, **CLIP}, "one is above"),
        ({"offset": -1.0}, "offset is -1"),
    ],
)
def test_impossible_configs_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(Config(PAIR), **change).build()


def test_both_encoders_of_the_proof_have_one_input():
    assert {m.source for m in vectors(2).data.modalities} == {"x"}


def test_the_variants_on_emoji_differ_in_the_loss_alone():
    """Vectors in the place of the emoji's components; CLIP's loss leaves the larger gap."""
    configs = {name: get_config("small", name) for name in ("emoji", "emoji_clip")}
    assert configs["emoji"] == replace(configs["emoji_clip"], system=configs["emoji"].system)
    z = np.random.default_rng(0).standard_normal((300, 128)).astype(np.float32)
    parts = [{"gradients": z[s], "words": z[s]} for s in (slice(240), slice(240, 300))]
    source, found = Arrays(parts[0], test=parts[1]), {}
    for name, config in configs.items():
        config = replace(config, data=replace(config.data, source=source), phases=(Phase(steps=150),))
        found[name] = evaluate(train(config, progress=False))
    gap = "image|text centroid distance"
    assert found["emoji"][gap] < found["emoji_clip"][gap] - 0.1
    assert found["emoji"]["image->text chance_R@1"] == pytest.approx(1 / 60)
    with pytest.raises(ConfigError, match="of size tiny"):
        get_config("tiny", "emoji")
