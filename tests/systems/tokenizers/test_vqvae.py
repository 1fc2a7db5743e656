"""The map tokenizer's behaviour; its parts are compared with the authors' in the other test_vqvae files."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.tokenizers.vqvae import get_config
from mmrep.config import Phase, Pretrained
from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import DenseModality
from mmrep.systems.tokenizers.vqvae import Config, ids_to_map, map_to_ids
from mmrep.training import loop

SHAPE = TransformerConfig(width=8, depth=1, heads=2, epsilon=1e-6)
RGB = Config(
    DenseModality("rgb", (8, 8), 4, 3), codes=6, latent=4, encoder=SHAPE, decoder=SHAPE
)  # fmt: skip
PLAIN = {"rgb": np.random.default_rng(0).random((4, 8, 8, 3), np.float32)}


def start(config, batch):
    system = config.build()
    system = system._replace(loss=jax.jit(system.loss), infer={k: jax.jit(f) for k, f in system.infer.items()})
    return system, *jax.jit(system.init)(jax.random.key(0), batch)


def partly(function, config):
    return jax.jit(partial(function, config))


def test_ids_and_maps_have_the_shapes_and_units_of_the_contract():
    for config in (RGB, replace(RGB, quantiser="fsq", levels=(3, 4))):
        system, params, extras = start(config, PLAIN)
        ids = system.infer["tokenize"](params, extras, PLAIN)
        assert (
            ids.shape == (4, 2, 2) and ids.dtype == jnp.int32 and 0 <= int(ids.min()) <= int(ids.max()) < config.vocab
        )
        back = system.infer["detokenize"](params, extras, {"ids": ids})
        assert back.shape == (4, 8, 8, 3) and float(back.min()) >= 0 and float(back.max()) <= 1
        np.testing.assert_allclose(back, system.infer["reconstruct"](params, extras, PLAIN), atol=1e-6)
        # What another system calls, with sub-trees of its own.
        np.testing.assert_array_equal(partly(map_to_ids, config)(params, extras, PLAIN["rgb"]), ids)
        np.testing.assert_allclose(partly(ids_to_map, config)(params, extras, ids), back, atol=1e-6)
    assert replace(RGB, quantiser="fsq", levels=(3, 4)).vocab == 12 and set(extras) == set()


def test_class_maps_are_decoded_to_ids_and_truncated_maps_standardised():
    classes = replace(RGB, map=DenseModality("semseg", (8, 8), 4, classes=3, class_dim=2))
    batch = {"semseg": np.random.default_rng(1).integers(0, 3, (4, 8, 8)).astype(np.int32)}
    system, params, extras = start(classes, batch)
    back = system.infer["reconstruct"](params, extras, batch)
    assert back.shape == (4, 8, 8) and back.dtype == jnp.int32 and set(np.unique(back)) <= {0, 1, 2}
    value, (_, metrics) = system.loss(params, extras, batch, jax.random.key(1))
    # Untrained: about log 3, and never a NaN.
    assert 0.3 < float(metrics["reconstruction"]) < 5 and np.isfinite(float(value))
    depth = replace(RGB, map=DenseModality("depth", (8, 8), 4, truncated=True), loss="smooth_l1")
    batch = {"depth": 0.5 + 0.001 * PLAIN["rgb"][..., :1]}
    system, params, extras = start(depth, batch)
    assert float(np.abs(system.infer["reconstruct"](params, extras, batch)).max()) > 0.6


def test_the_loss_moves_the_codebook_towards_its_latents_and_restarts_dead_codes():
    system, params, extras = start(replace(RGB, dead=0.0, decay=0.5), PLAIN)
    _, (after, metrics) = system.loss(params, extras, PLAIN, jax.random.key(1))
    used = np.unique(system.infer["tokenize"](params, extras, PLAIN))
    moved = np.abs(np.asarray(after["codebook"]["codes"] - extras["codebook"]["codes"])).max(1) > 1e-4
    assert len(used) < 6 and set(np.flatnonzero(moved)) == set(used.tolist())
    np.testing.assert_allclose(after["codebook"]["usage"].sum(), 0.5 * 16, rtol=1e-6)
    assert 1 <= float(metrics["perplexity"]) <= len(used) + 1e-3
    # 16 tokens, 6 codes: even share 2.7; half of it in the average. A threshold of 1/2 of the share restarts each unused code.
    _, (fresh, _) = jax.jit(start(replace(RGB, dead=2.0, decay=0.5), PLAIN)[0].loss)(
        params, extras, PLAIN, jax.random.key(1)
    )
    unused = np.setdiff1d(np.arange(6), used)
    assert (np.abs(np.asarray(fresh["codebook"]["codes"] - extras["codebook"]["codes"]))[unused].max(1) > 1e-3).all()
    # No gradient reaches the codes: they are not parameters, which weight decay would shrink.
    assert "codebook" not in params


def test_a_diffusion_decoder_samples_by_row_and_seed():
    config = replace(
        RGB,
        decoder_type="diffusion",
        unet_widths=(8, 8),
        unet_blocks=1,
        unet_patch=2,
        diffusion_steps=20,
        sample_steps=2,
    )
    system, params, extras = start(config, PLAIN)
    value, (_, metrics) = system.loss(params, extras, PLAIN, jax.random.key(1))
    assert np.isfinite(float(value)) and metrics["reconstruction"] > 0
    run, ids = system.infer["detokenize"], jnp.zeros((3, 2, 2), jnp.int32)
    a = run(params, extras, {"ids": ids, "seed": jnp.asarray([1, 2, 1], jnp.int32)})
    np.testing.assert_allclose(a[0], a[2], atol=1e-6)
    assert np.abs(a[0] - a[1]).max() > 1e-3 and 0 <= float(a.min()) <= float(a.max()) <= 1
    b = run(params, extras, {"ids": ids, "seed": jnp.asarray([2, 5, 9], jnp.int32)})
    np.testing.assert_allclose(a[1], b[0], atol=1e-5)
    keys = jax.random.split(jax.random.key(3), 3)
    assert np.abs(np.ptp(partly(ids_to_map, config)(params, extras, ids, keys), axis=0)).max() > 1e-3


def test_pretrained_parameters_and_codebook_are_carried_over(tmp_path, monkeypatch):
    monkeypatch.setenv("MMREP_CACHE", str(tmp_path))
    tiny = get_config("tiny")
    donor = replace(tiny, phases=(Phase(steps=3),), evals=())
    trained = loop.pretrained(donor)
    # decay 1 - 2^-24 and no restart: the codebook that went in comes out.
    still = replace(tiny.system, decay=float(np.nextafter(np.float32(1), np.float32(0))), dead=0.0)
    heir = lambda *parts: replace(  # noqa: E731
        tiny,
        system=still,
        evals=(),
        phases=(Phase(steps=1, trainable=("decoder/.*",), start=(Pretrained(donor, parts),)),),
    )
    taken = loop.train(heir(("encoder/", "encoder/"), ("extras/codebook/", "extras/codebook/")), progress=False)
    np.testing.assert_allclose(taken.extras["codebook"]["codes"], trained.extras["codebook"]["codes"], atol=1e-6)
    assert np.array_equal(taken.params["encoder"]["latent"]["kernel"], trained.params["encoder"]["latent"]["kernel"])
    # The whole tree means the parameters: extras go along only where they are named.
    here = {"a": jnp.zeros(2), "extras": {"a": jnp.zeros(2)}}
    whole = loop.load_pretrained(here, {"a": jnp.ones(2), "extras": {"a": jnp.ones(2)}}, (("", ""),))
    assert whole["a"].sum() == 2 and whole["extras"]["a"].sum() == 0
    # Into a sub-tree of another system's parameters, as a frozen tokenizer.
    tree = loop.load_pretrained(
        {"rgb": {"codebook": {"codes": jnp.zeros((16, 4))}}}, {"extras": trained.extras}, (("extras/codebook/codes", "rgb/codebook/codes"),)
    )  # fmt: skip
    np.testing.assert_array_equal(tree["rgb"]["codebook"]["codes"], trained.extras["codebook"]["codes"])
    with pytest.raises(ConfigError, match="no parameter"):
        loop.load_pretrained({}, {"extras": trained.extras}, (("codebook/", "codebook/"),))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"quantiser": "vq"}, "quantiser"), ({"quantiser": "fsq"}, "levels"), ({"levels": (3,)}, "no levels"),
        ({"decay": 1.0}, "decay"), ({"dead": -1.0}, "dead"), ({"usage": "utility", "dead": 0.0}, "1 or more"), ({"loss": "ce"}, "loss"), ({"codes": 1}, "codes"),
        ({"decoder_type": "diffusion", "sample_steps": 2000}, "sampling"), ({"decoder_type": "diffusion", "unet_patch": 3}, "multiple of"),
        ({"decoder_type": "diffusion", "map": DenseModality("semseg", (8, 8), 4, classes=3)}, "class ids"),
    ],
)  # fmt: skip
def test_impossible_configs_are_refused(change, says):
    config = replace(RGB)
    for name, value in change.items():
        object.__setattr__(config, name, value)  # past the type checks of the tests
    with pytest.raises(ConfigError, match=says):
        config.build()
