"""CROMA against numbers from the authors' code (antofuller/CROMA at 59505a6, pretrain_croma.py: CROMA.forward in a group of one process, its parts
alone, get_alibi and apply_mask_to_alibi, with width 16, 4 layers, 4 heads, decoder 32) and its pitfalls. Weights and images are those of `noise`."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.config import flatten
from mmrep.errors import ConfigError, DataError
from mmrep.interop.foreign import read_foreign
from mmrep.losses import masked
from mmrep.losses.large_batch import LargeBatch
from mmrep.masking import budgets
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import DenseModality
from mmrep.nn.positions import alibi_2d, alibi_slopes
from mmrep.systems.masked.croma import Config, croma_losses, mae_targets
from mmrep.systems.masked.croma.weights import from_authors, to_authors

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "croma.npz")
PLAIN = {"mean": (0.0,), "std": (1.0,)}
OPTICAL, RADAR = DenseModality("optical", (120, 120), 8, 12, **PLAIN), DenseModality("radar", (120, 120), 8, 2, **PLAIN)
AUTHORS = Config(
    OPTICAL, RADAR, share_cross_bias=True, encoder=TransformerConfig(width=16, depth=4, heads=4),
    decoder=TransformerConfig(width=32, depth=1, heads=8), max_scale=None,
)  # fmt: skip
SMALL = Config(
    DenseModality("optical", (16, 16), 4, 3), DenseModality("radar", (16, 16), 4, 2), encoder=TransformerConfig(width=16, depth=2, heads=2),
    decoder=TransformerConfig(width=8, depth=1, heads=2),
)  # fmt: skip
CLOSE = {"atol": 3e-5, "rtol": 3e-4}


def noise(n, salt):
    """Numbers in [0, 1) that hold no more than integers do: the same on every machine."""
    k = np.arange(n, dtype=np.uint64) + np.uint64(salt) * np.uint64(1 << 20)
    k = (k * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)
    k ^= k >> np.uint64(15)
    k = (k * np.uint64(2246822519)) & np.uint64(0xFFFFFFFF)
    k ^= k >> np.uint64(13)
    return (k / 2.0**32).astype(np.float32)


def weights():
    found = {}
    for name in (k.removeprefix("shape/") for k in GOLDEN.files if k.startswith("shape/")):
        shape = tuple(GOLDEN[f"shape/{name}"])
        u = noise(int(np.prod(shape)), int(GOLDEN[f"order/{name}"])).reshape(shape) - 0.5
        norm = "norm" in name or (name.startswith("GAP") and ".0." in name)
        value = u * (2.0 / np.sqrt(shape[-1] if len(shape) > 1 else 16))
        if "logit_scale" in name:
            value = np.log(1 / 0.07)
        elif norm and name.endswith("weight"):
            value = 1 + 0.4 * u
        found[name] = np.asarray(value, np.float32)
    return found


def images():
    x = noise(2 * 14 * 120 * 120, 500).reshape(2, 14, 120, 120).transpose(0, 2, 3, 1)
    return {"optical": jnp.asarray(x[..., :12]), "radar": jnp.asarray(x[..., 12:])}


def seen_by_authors():
    """Their masks, in their order of tokens."""
    found = {}
    for k in ("optical", "radar"):
        keep = GOLDEN[f"keep/{k}"].astype(np.int32)
        rest = np.stack([np.setdiff1d(np.arange(225), row) for row in keep])
        shuffle = np.concatenate([keep, rest], axis=1)
        found[k] = budgets.Visible(jnp.asarray(keep), jnp.asarray(np.argsort(shuffle, axis=1), jnp.int32))
    return found


def tiny_images(n=4, size=16, seed=0):
    rng = np.random.default_rng(seed)
    return {k: rng.random((n, size, size, c), np.float32) for k, c in (("optical", 3), ("radar", 2))}


def test_encoders_losses_and_gradients_are_the_authors():
    params, model, seen, x = from_authors(weights(), AUTHORS), AUTHORS.model(), seen_by_authors(), images()

    def loss(p):
        found = croma_losses(AUTHORS, model, p, x, seen)
        return found["optical"] + found["radar"], found

    (mae, found), g = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(mae, GOLDEN["loss/mae"], rtol=1e-5)
    np.testing.assert_allclose(found["contrastive"], GOLDEN["loss/contrast"], rtol=1e-4)
    for k in ("optical", "radar"):
        tokens, _ = jax.jit(lambda p, k=k: model.apply(p, k, x[k], seen[k].ids_keep))(params)
        np.testing.assert_allclose(tokens, GOLDEN[f"masked/{k}"], **CLOSE)
        np.testing.assert_allclose(g[k]["embed"]["bias"], GOLDEN[f"grad/{k}_encoder.linear_input.bias"], **CLOSE)
    theirs = {k.removeprefix("grad/"): GOLDEN[k] for k in GOLDEN.files if k.startswith("grad/")}
    no_bias = jax.tree_util.tree_map_with_path(
        lambda path, v: v * 0 if path[-2].key in ("query", "value") and path[-1].key == "bias" else v, g
    )
    ours = to_authors(no_bias, AUTHORS)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, **CLOSE, err_msg=name)


def test_whole_images_and_their_pooled_features_are_the_authors():
    system, params, x = AUTHORS.build(), from_authors(weights(), AUTHORS), images()
    for given in (("optical",), ("radar",), ("optical", "radar")):
        name = "joint" if len(given) == 2 else given[0]
        part = {k: x[k] for k in given}
        tokens, valid = jax.jit(system.infer["fused_tokens" if len(given) == 2 else f"{name}_tokens"])(params, {}, part)
        assert valid.shape == tokens.shape[:2] and valid.all()
        np.testing.assert_allclose(tokens[:, ::15], GOLDEN[f"whole/{name}"], **CLOSE)
        summary = system.infer["fused" if len(given) == 2 else f"{name}_features"]
        np.testing.assert_allclose(jax.jit(summary)(params, {}, x), GOLDEN[f"gap/{name}"], **CLOSE)
    # Where nothing is masked the two biases are equal.
    right = replace(AUTHORS, share_cross_bias=False).build().infer["fused"]
    np.testing.assert_allclose(jax.jit(right)(params, {}, x), GOLDEN["gap/joint"], **CLOSE)


def test_their_pretraining_shares_the_cross_bias_and_its_keys_need_another():
    params, model, seen = from_authors(weights(), AUTHORS), AUTHORS.model(), seen_by_authors()
    inputs = (
        *(jnp.asarray(GOLDEN[f"masked/{k}"]) for k in ("radar", "optical")),
        seen["radar"].ids_keep,
        seen["optical"].ids_keep,
        15,
    )
    np.testing.assert_allclose(model.fuse(params, *inputs)[0], GOLDEN["masked/joint"], **CLOSE)
    right = replace(AUTHORS, share_cross_bias=False).model().fuse(params, *inputs)[0]
    assert np.abs(right - GOLDEN["masked/joint"]).max() > 0.02


def test_alibi_is_the_authors():
    for heads in (4, 6, 12, 16):
        np.testing.assert_allclose(alibi_slopes(heads), GOLDEN[f"slopes/{heads}"], rtol=1e-6)
    every = np.arange(225)[None]
    np.testing.assert_allclose(alibi_2d(every, every, 15, 4)[0][:, [0, 113]], GOLDEN["alibi/rows"], rtol=1e-6)
    optical, radar = (GOLDEN[f"keep/{k}"].astype(np.int32)[1:] for k in ("optical", "radar"))
    found = alibi_2d(radar, optical, 15, 4)[0, :, ::8, ::8]
    np.testing.assert_allclose(found, GOLDEN["alibi/cross"], rtol=1e-6)


RELEASED_NAMES = (
    ("radar_encoder.", "s1_encoder."), ("optical_encoder.", "s2_encoder."), ("cross_encoder.", "joint_encoder."),
    ("GAP_FFN_radar.", "s1_GAP_FFN."), ("GAP_FFN_optical.", "s2_GAP_FFN."), (".0.create_qkv.", ".0.to_qkv."), (".0.out.", ".0.to_out."),
    (".1.create_q.", ".1.to_q."), (".1.create_k.", ".1.to_k."), (".1.create_v.", ".1.to_v."),
)  # fmt: skip
"""pretrain_croma.py -> use_croma.py, which has neither projections nor decoder."""


def as_released(theirs):
    found = {}
    for name, value in theirs.items():
        if not name.startswith(("decoder.", "global")):
            for old, new in RELEASED_NAMES:
                name = name.replace(old, new)
            found[name] = value
    return found


def test_import_and_export_are_inverse_and_released_names_are_known():
    theirs = weights()
    params = from_authors(theirs, AUTHORS)
    back = to_authors(params, AUTHORS)
    assert set(back) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    spec = jax.eval_shape(AUTHORS.build().init, jax.random.key(0), images())[0]
    assert {k: v.shape for k, v in flatten(params).items()} == {k: v.shape for k, v in flatten(spec).items()}
    released = as_released(theirs)
    assert "s1_encoder.transformer.layers.0.0.to_qkv.weight" in released and "s2_GAP_FFN.3.bias" in released
    part, whole = flatten(from_authors(released, replace(AUTHORS, released=True))), flatten(params)
    assert all(np.array_equal(v, whole[k]) for k, v in part.items()) and "fusion/norm/scale" in part
    with pytest.raises(DataError, match="logit_scale"):
        from_authors({k: v for k, v in theirs.items() if "logit" not in k}, AUTHORS)
    with pytest.raises(DataError, match=r"has shape \[16, 70\]"):
        from_authors(theirs | {"optical_encoder.linear_input.weight": np.zeros((16, 70))}, AUTHORS)
    stray = params | {"radar": jax.tree.map(lambda v: v + 1, params["radar"])}
    with pytest.raises(ConfigError, match="bias"):
        to_authors(stray, AUTHORS)


def test_released_and_pretraining_files_are_recognised(tmp_path):
    np.savez(tmp_path / "pretraining.npz", **weights())
    np.savez(tmp_path / "released.npz", **as_released(weights()))
    for name in ("pretraining", "released"):
        experiment, params, _ = read_foreign(tmp_path / f"{name}.npz")
        encoder = replace(AUTHORS.encoder, heads=16)
        decoder = AUTHORS.decoder if name == "pretraining" else Config().decoder
        assert experiment.system == replace(
            AUTHORS,
            share_cross_bias=False,
            encoder=encoder,
            decoder=decoder,
            max_scale=100.0,
            released=name == "released",
        )
        assert [m.shape for m in experiment.data.modalities] == [(120, 120, 12), (120, 120, 2)]
        whole = flatten(from_authors(weights(), AUTHORS))
        assert all(np.array_equal(v, whole[k]) for k, v in flatten(params).items())
    system, x = experiment.system.build(), images()
    assert "reconstruct" not in system.infer and system.infer["radar"](params, {}, x).shape == (2, 16)
    with pytest.raises(ConfigError, match="released"):
        system.loss(params, {}, x, jax.random.key(0))


def test_masks_are_independent_and_of_their_own_ratios():
    config = replace(SMALL, mask_optical=0.5, mask_radar=0.75)
    assert config.visible == (8, 4) and replace(SMALL, mask_optical=0.9375).visible[0] == 1
    system, x = config.build(), tiny_images()
    params, extras = system.init(jax.random.key(0), x)
    value, (_, metrics) = jax.jit(system.loss)(params, extras, x, jax.random.key(1))
    assert np.isfinite(float(value)) and set(metrics) == {"contrastive", "optical", "radar"}
    # Masked optical patches change nothing, visible ones do, whatever the radar's mask.
    model = config.model()
    seen = {
        "optical": budgets.from_mask(np.arange(16)[None].repeat(4, 0) < 8),
        "radar": budgets.from_mask(np.arange(16)[None].repeat(4, 0) >= 12),
    }
    standard = {k: getattr(config, k).standard(v) for k, v in x.items()}
    lossy = jax.jit(lambda images: croma_losses(config, model, params, images, seen)["contrastive"])
    moved = {"optical": standard["optical"].at[:, 12:].add(1.0), "radar": standard["radar"].at[:, :12].add(1.0)}
    assert float(lossy(moved)) == float(lossy(standard))
    assert float(lossy(standard | {"optical": standard["optical"].at[0, :4].add(1.0)})) != float(lossy(standard))


def test_targets_are_normalised_over_both_sensors_or_each_by_itself():
    x = {k: jnp.asarray(v) * (20 if k == "radar" else 1) for k, v in tiny_images(2).items()}
    joint, own = mae_targets(SMALL, x), mae_targets(replace(SMALL, normalise="sensor"), x)
    both = np.concatenate([joint["optical"], joint["radar"]], axis=-1)
    assert both.shape == (2, 16, 16 * 5)
    np.testing.assert_allclose(both.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(both.var(-1, ddof=1), 1, atol=1e-4)
    # The band with the larger range dominates the variance: the optical target hardly varies.
    assert np.asarray(joint["optical"]).std(-1).max() < 0.2 < 0.9 < np.asarray(own["optical"]).std(-1).min()
    flat = mae_targets(SMALL, {k: jnp.ones_like(v) for k, v in x.items()})
    assert not np.asarray(flat["radar"]).any()


def test_nothing_hidden_gives_no_reconstruction_loss_and_no_nan():
    config = replace(SMALL, mask_optical=0.0, mask_radar=0.0)
    system, x = config.build(), tiny_images()
    params, extras = system.init(jax.random.key(0), x)
    value, g = jax.jit(jax.value_and_grad(lambda p: system.loss(p, extras, x, jax.random.key(0))[0]))(params)
    assert np.isfinite(float(value)) and all(np.isfinite(v).all() for v in jax.tree.leaves(g))
    np.testing.assert_array_equal(masked.over_targets(jnp.ones((2, 3)), jnp.zeros((2, 3), bool)), 0)


def test_larger_and_oblong_images_need_no_new_parameters():
    system, x = SMALL.build(), tiny_images()
    params, extras = system.init(jax.random.key(0), x)
    larger = {k: np.tile(v, (1, 2, 3, 1)) for k, v in x.items()}
    tokens = system.infer["fused_tokens"](params, extras, larger)[0]
    assert tokens.shape == (4, 8 * 12, 16)
    # Distances alone do not encode a position: on a constant image all tokens are equal.
    even = {k: np.full((1, 32, 48, v.shape[-1]), 0.3, np.float32) for k, v in x.items()}
    field = np.asarray(system.infer["fused_tokens"](params, extras, even)[0])
    np.testing.assert_allclose(field, field[:, :1] * np.ones_like(field), atol=1e-5)
    sincos = replace(SMALL, positions="sincos2d").build()
    params, extras = sincos.init(jax.random.key(0), x)
    both = "fused_tokens", "fused_tokens_extrapolated"
    interpolated, extrapolated = (sincos.infer[k](params, extras, larger)[0] for k in both)
    assert not np.allclose(interpolated, extrapolated, atol=1e-2)
    assert np.asarray(sincos.infer["fused_tokens"](params, extras, even)[0]).std(1).max() > 0.01
    same = [sincos.infer[k](params, extras, x)[0] for k in both]
    np.testing.assert_allclose(*same, atol=1e-5)


def test_a_missing_sensor_is_left_out_or_refused():
    system, x = SMALL.build(), tiny_images()
    params, extras = system.init(jax.random.key(0), x)
    alone = {"radar": x["radar"]}
    assert system.infer["radar_tokens"](params, extras, alone)[0].shape == (4, 16, 16)
    np.testing.assert_allclose(np.linalg.norm(system.infer["radar"](params, extras, alone), axis=1), 1, rtol=1e-5)
    for name in ("fused", "reconstruct", "optical", "optical_layers"):
        with pytest.raises(ConfigError, match="optical"):
            system.infer[name](params, extras, alone)
    with pytest.raises(ConfigError, match="one extent"):
        system.infer["fused"](params, extras, x | {"radar": np.tile(x["radar"], (1, 2, 1, 1))})
    with pytest.raises(ConfigError, match="patch"):
        system.infer["radar"](params, extras, {"radar": x["radar"][:, :15]})


def test_each_loss_alone_has_the_parts_that_it_trains():
    x = tiny_images()
    for change, absent in (({"contrastive_weight": 0.0}, "scale"), ({"mae_weight": 0.0}, "fusion")):
        system = replace(SMALL, **change).build()
        params, extras = system.init(jax.random.key(0), x)
        assert absent not in params
        g = jax.jit(jax.grad(lambda p, s=system, e=extras: s.loss(p, e, x, jax.random.key(0))[0]))(params)
        assert all(np.asarray(v).any() for k, v in flatten(g).items()), [
            k for k, v in flatten(g).items() if not v.any()
        ]
    assert system.infer["fused_tokens"](params, extras, x)[0].shape == (4, 16, 32)


@pytest.mark.parametrize("large_batch", [LargeBatch("chunked", 2), LargeBatch(micro_batches=2)])
def test_the_loss_does_not_depend_on_how_the_batch_is_cut(large_batch):
    x, rng = tiny_images(), jax.random.key(3)
    plain, cut = SMALL.build(), replace(SMALL, large_batch=large_batch).build()
    params, _ = plain.init(jax.random.key(0), x)
    values, grads = zip(
        *(jax.jit(jax.value_and_grad(lambda p, s=s: s.loss(p, {}, x, rng)[0]))(params) for s in (plain, cut))
    )
    np.testing.assert_allclose(values[0], values[1], rtol=1e-6)
    for a, b in zip(*(jax.tree.leaves(g) for g in grads)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_scanned_blocks_take_biases_too():
    from mmrep.nn.transformer import stack_blocks

    deeper = replace(SMALL.encoder, depth=4)
    system, x = replace(SMALL, encoder=deeper).build(), tiny_images()
    params, extras = system.init(jax.random.key(0), x)
    scanned = replace(SMALL, encoder=replace(deeper, scan=True, remat=True)).build()
    stacked = {k: stack_blocks(v) if k in ("optical", "radar", "fusion") else v for k, v in params.items()}
    a, b = (jax.jit(s.loss)(p, extras, x, jax.random.key(2))[0] for s, p in ((system, params), (scanned, stacked)))
    np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mask_optical": 1.0}, "mask_optical"), ({"mask_radar": 0.99}, "mask_radar"), ({"mask_radar": -0.1}, "mask_radar"),
        ({"mask_radar": 0.5, "share_cross_bias": True}, "share_cross_bias"), ({"contrastive_weight": -1.0}, "contrast"), ({"contrastive_weight": 0.0, "mae_weight": 0.0}, "both"),
        ({"encoder": replace(SMALL.encoder, depth=3)}, "even"),
        ({"decoder": replace(SMALL.decoder, width=10)}, "decoder.width"), ({"radar": DenseModality("radar", (16, 16), 5, 2)}, "patch"),
        ({"radar": DenseModality("radar", (16, 16), 8, 2)}, "grid"), ({"radar": DenseModality("radar", (16, 16), 4, classes=3)}, "classes"),
    ],
)  # fmt: skip
def test_impossible_configs_are_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        replace(SMALL, **change).build()
