"""MultiMAE against numbers from the authors' code (EPFL-VILAB/MultiMAE at 66910f5: MultiMAE.forward and its losses, run row by row with given masks) and its pitfalls."""

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
from mmrep.masking import budgets
from mmrep.masking.budgets import Visible
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import DenseModality, truncated_standard
from mmrep.systems.masked.multimae import Config, Task, labels, task_losses, uncertainty_weighting
from mmrep.systems.masked.multimae.weights import from_authors, to_authors

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "multimae.npz")
PLAIN = {"mean": (0.0,), "std": (1.0,)}
MAPS = (
    DenseModality("rgb", (16, 16), 4, 3, **PLAIN), DenseModality("depth", (16, 16), 4, 1, **PLAIN),
    DenseModality("semseg", (8, 8), 2, classes=5, class_dim=6),
)  # fmt: skip
TASKS = (Task("rgb"), Task("rgb", "norm_mse"), Task("depth", "l1"), Task("semseg", "ce"))
CONFIG = Config(
    MAPS, TASKS, num_encoded_tokens=8, encoder=TransformerConfig(width=16, depth=2, heads=2, epsilon=1e-6),
    decoder=TransformerConfig(width=12, depth=1, heads=3, epsilon=1e-6),
)  # fmt: skip
THEIRS = {"rgb": "rgb", "rgb_norm_mse": "norm_rgb", "depth": "depth", "semseg": "semseg"}


def weights():
    return {k[2:]: GOLDEN[k] for k in GOLDEN.files if k.startswith("w/")}


def batch():
    maps = {k: GOLDEN[f"x/{k}"].transpose(0, 2, 3, 1) for k in ("rgb", "depth")}
    return maps | {"semseg": GOLDEN["x/semseg"].astype(np.int32)}


def predict(params, values, seen, config=CONFIG):
    model = config.model()
    encoded, _, _ = model.encode(params, values, seen)
    return model.decode(params, encoded, seen, values)


def golden_map(name, label):
    return GOLDEN[f"{name}/{THEIRS[label]}"].transpose(0, 2, 3, 1)


def as_map(patches, m):
    from mmrep.nn.patches import unpatchify

    return np.asarray(unpatchify(patches, m.patch, m.grid))


def test_whole_forward_and_losses_are_the_authors():
    params, values = from_authors(weights(), CONFIG), {k: jnp.asarray(v) for k, v in batch().items()}
    seen = budgets.from_mask(GOLDEN["mask"] == 0)
    predicted = jax.jit(lambda p, v: predict(p, v, seen))(params, values)
    for label, t in zip(labels(TASKS), TASKS):
        np.testing.assert_allclose(
            as_map(predicted[label], CONFIG.of(t.output_domain)), golden_map("y", label), atol=2e-4, rtol=2e-4
        )
    found = task_losses(CONFIG, predicted, values, seen)
    for label, value in found.items():
        np.testing.assert_allclose(value, GOLDEN[f"l/{THEIRS[label]}"], rtol=2e-5)


def test_gradients_are_the_authors():
    params, values = from_authors(weights(), CONFIG), {k: jnp.asarray(v) for k, v in batch().items()}
    seen = budgets.from_mask(GOLDEN["mask"] == 0)
    g = jax.jit(jax.grad(lambda p: sum(task_losses(CONFIG, predict(p, values, seen), values, seen).values())))(params)
    close = {"atol": 2e-4, "rtol": 1e-3}
    np.testing.assert_allclose(g["global"]["tokens"], GOLDEN["g/global_tokens"][0], **close)
    np.testing.assert_allclose(g["in_semseg"]["table"], GOLDEN["g/semseg_class"], **close)
    np.testing.assert_allclose(g["out_depth"]["mask_token"], GOLDEN["g/mask_token"][0, 0], **close)
    np.testing.assert_allclose(g["out_rgb_norm_mse"]["map"][2], GOLDEN["g/task_emb"][0, 0], **close)
    q, k, v = np.split(GOLDEN["g/qkv"], 3)
    for name, theirs in (("query", q), ("key", k), ("value", v)):
        np.testing.assert_allclose(g["encoder"]["block00"]["attn"][name]["kernel"], theirs.T, **close)


def test_a_missing_map_is_left_out_and_still_predicted():
    params = from_authors(weights(), CONFIG)
    values = {k: jnp.asarray(v) for k, v in batch().items() if k != "semseg"}
    predicted = predict(params, values, budgets.all_visible(2, [16, 16]))
    for label, t in zip(labels(TASKS), TASKS):
        np.testing.assert_allclose(
            as_map(predicted[label], CONFIG.of(t.output_domain)), golden_map("alone", label), atol=3e-4, rtol=3e-4
        )


def test_few_visible_tokens_are_embedded_alone_with_the_same_numbers():
    params, values = from_authors(weights(), CONFIG), {k: jnp.asarray(v) for k, v in batch().items()}
    model = CONFIG.model()
    few = budgets.from_mask(GOLDEN["mask"] == 0)  # 8 of 48: gathered before they are embedded
    encoded, _, _ = model.encode(params, values, few)
    shuffled = budgets.Visible(few.ids_keep[:, ::-1], few.ids_restore)
    backwards, _, _ = model.encode(params, values, shuffled)
    np.testing.assert_allclose(encoded[:, :8], backwards[:, :8][:, ::-1], atol=2e-5)
    many = np.ones((2, 48), bool)
    many[:, ::5] = False
    whole, _, _ = model.encode(params, values, budgets.all_visible(2, [16] * 3))
    most, _, _ = model.encode(params, values, budgets.from_mask(many))
    assert most.shape[1] == many[0].sum() + 1 and not np.allclose(most[:, 0], whole[:, 0])


def test_import_and_export_are_inverse():
    theirs = weights()
    params = from_authors(theirs, CONFIG)
    back = to_authors(params, CONFIG)
    assert set(back) == set(theirs)
    for name, value in theirs.items():
        if name.endswith("qkv.bias"):
            q, k, v = np.split(value, 3)
            value = np.concatenate([q, np.zeros_like(k), v])
        elif name.endswith("kv.bias"):
            k, v = np.split(value, 2)
            value = np.concatenate([np.zeros_like(k), v])
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    again = flatten(from_authors(back, CONFIG))
    spec = jax.eval_shape(CONFIG.build().init, jax.random.key(0), batch())[0]
    assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in flatten(spec).items()}
    with pytest.raises(DataError, match="global_tokens"):
        from_authors({k: v for k, v in theirs.items() if k != "global_tokens"}, CONFIG)


def test_a_class_table_with_a_row_of_padding_loads_and_no_other_size():
    """SemSegInputAdapter(num_classes=C, emb_padding_idx=C), as run_finetuning_semseg.py makes it, has C + 1 rows."""
    theirs, name = weights(), "input_adapters.semseg.class_emb.weight"
    padded = theirs | {name: np.concatenate([theirs[name], np.ones((1, 6), np.float32)])}
    jax.tree.map(np.testing.assert_array_equal, from_authors(padded, CONFIG), from_authors(theirs, CONFIG))
    for table in (theirs[name][:4], np.zeros((7, 6)), np.zeros((6, 5))):
        with pytest.raises(DataError, match=r"class_emb.weight.*shape \[\d, \d\].*needs \[5, 6\]"):
            from_authors(theirs | {name: table}, CONFIG)


def test_a_checkpoint_is_recognised_by_its_names(tmp_path):
    maps = (
        DenseModality("rgb", (32, 32), 16, 3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        DenseModality("semseg", (8, 8), 4, classes=3, class_dim=2),
    )
    tasks = Task("rgb"), Task("rgb", "norm_mse"), Task("semseg", "ce")
    encoder = TransformerConfig(width=64, depth=2, heads=1, epsilon=1e-6)
    decoder = TransformerConfig(width=16, depth=1, heads=8, epsilon=1e-6)
    config = Config(maps, tasks, num_encoded_tokens=1, encoder=encoder, decoder=decoder)
    batch = {"rgb": np.zeros((1, 32, 32, 3), np.float32), "semseg": np.zeros((1, 8, 8), np.int32)}
    params = jax.tree.map(np.asarray, jax.jit(config.build().init)(jax.random.key(0), batch)[0])
    theirs = to_authors(params, config) | {"input_adapters.semseg.class_emb.weight": np.zeros((4, 2), np.float32)}
    theirs |= {f"input_adapters.{m.name}.pos_emb": np.zeros((1, 64, 2, 2), np.float32) for m in maps}
    np.savez(tmp_path / "multimae.npz", **theirs)
    experiment, found, _ = read_foreign(tmp_path / "multimae.npz")
    assert experiment.system == config and [m.name for m in experiment.data.modalities] == ["rgb", "semseg"]
    found["in_semseg"]["table"] = params["in_semseg"]["table"]
    jax.tree.map(np.testing.assert_array_equal, found, params)
    np.savez(tmp_path / "more.npz", **theirs, extra=np.zeros(3))
    with pytest.raises(DataError, match=r"first is 'extra' \[3\]"):
        read_foreign(tmp_path / "more.npz")


def test_normalised_patches_use_all_values_and_n_minus_one():
    x = np.random.default_rng(0).standard_normal((2, 3, 12)).astype(np.float32)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True, ddof=1) + 1e-6)
    np.testing.assert_allclose(masked.normalise_patches(jnp.asarray(x)), expected, atol=1e-5)
    np.testing.assert_array_equal(masked.normalise_patches(jnp.ones((1, 1, 4))), 0)


def test_depth_is_standardised_by_its_middle():
    x = np.random.default_rng(1).random((2, 4, 5, 1)).astype(np.float32)
    x[0, 0, 0] = 1e4
    flat = np.sort(x.reshape(2, -1), 1)[:, 2:18]
    expected = (x - flat.mean(1)[:, None, None, None]) / np.sqrt(flat.var(1, ddof=1) + 1e-6)[:, None, None, None]
    np.testing.assert_allclose(truncated_standard(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)
    assert np.isfinite(truncated_standard(jnp.ones((1, 4, 4, 1)))).all()


def test_an_absent_map_is_neither_seen_nor_predicted():
    system, rng = CONFIG.build(), jax.random.key(0)
    params, extras = jax.jit(system.init)(rng, batch())
    present = {"present": np.array([[1, 1, 0], [1, 0, 1]], np.float32)}
    loss = jax.jit(lambda b: system.loss(params, extras, b, rng))
    value, (_, metrics) = loss(batch() | present)
    changed = batch()
    changed["semseg"] = changed["semseg"].copy()
    changed["semseg"][0] = (changed["semseg"][0] + 1) % 5
    changed["depth"] = changed["depth"].copy()
    changed["depth"][1] += 3
    assert float(loss(changed | present)[0]) == float(value)
    assert float(loss(changed)[0]) != float(loss(batch())[0])
    assert all(np.isfinite(v) for v in metrics.values())
    none = {"present": np.array([[1, 1, 0], [1, 1, 0]], np.float32)}
    assert float(loss(batch() | none)[1][1]["semseg"]) == 0.0


def test_ignored_pixels_count_for_nothing():
    logits = jnp.asarray(np.random.default_rng(2).standard_normal((1, 2, 4, 5)), jnp.float32)
    labels_ = jnp.asarray([[[0, 1, 255, 255], [255] * 4]])
    found = masked.patch_cross_entropy(logits, labels_, ignore=255)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    np.testing.assert_allclose(found, [[-(log_p[0, 0, 0, 0] + log_p[0, 0, 1, 1]) / 2, 0.0]], rtol=1e-5)


def test_uncertainty_weighs_the_tasks_and_learns():
    # The authors' UncertaintyWeightingStrategy on these numbers, by hand: exp(-s) L + s, and nothing of a task without targets.
    found = uncertainty_weighting(jnp.asarray([2.0, 0.0, 4.0]), jnp.asarray([0.0, 1.0, np.log(2.0)]))
    np.testing.assert_allclose(found, [2.0, 0.0, 2.0 + np.log(2.0)], rtol=1e-6)
    rng = jax.random.key(0)
    plain, learnt = CONFIG.build(), replace(CONFIG, uncertainty_weighting=True).build()
    params, extras = jax.jit(learnt.init)(rng, batch())
    assert params["log_variance"].shape == (4,)
    network = {k: v for k, v in params.items() if k != "log_variance"}
    want, (_, parts) = jax.jit(plain.loss)(network, extras, batch(), rng)
    of_weights = jax.jit(
        jax.value_and_grad(lambda s: learnt.loss({**network, "log_variance": s}, extras, batch(), rng)[0])
    )
    total, slope = of_weights(params["log_variance"])
    np.testing.assert_allclose(total, want, rtol=1e-6)  # exp(0) L + 0
    np.testing.assert_allclose(slope, [1 - parts[k] for k in labels(TASKS)], rtol=1e-4)


@pytest.mark.parametrize("task", [Task("rgb"), Task("depth", "l1"), Task("semseg", "ce")])
def test_what_was_not_observed_is_no_target(task):
    config = replace(CONFIG, tasks=(task,), num_encoded_tokens=1)
    system, whole, rng = config.build(), batch(), jax.random.key(1)
    params, extras = jax.jit(system.init)(rng, whole)
    there = np.ones(whole[task.output_domain].shape[:3], np.int32)
    top = there.shape[1] // 2
    there[:, top:] = 0
    loss = jax.jit(lambda b: system.loss(params, extras, b, rng)[0])
    every = {f"{task.output_domain}_observed": np.ones_like(there)}
    np.testing.assert_allclose(loss(whole | every), loss(whole), rtol=1e-6)
    assert float(loss(whole | {f"{task.output_domain}_observed": np.zeros_like(there)})) == 0.0
    assert 0 < float(loss(whole | {f"{task.output_domain}_observed": there})) < np.inf
    # The losses alone, nothing seen: whatever stands in a hole is one to them, and what stands elsewhere is the mean.
    nothing = Visible(jnp.zeros((len(there), 0), jnp.int32), jnp.broadcast_to(jnp.arange(48), (len(there), 48)))
    predicted = {task.output_domain: jnp.zeros((len(there), 16, config.of(task.output_domain).values))}
    values = {m.name: jnp.asarray(m.standard(whole[m.name])) for m in MAPS}
    filled = values | {task.output_domain: values[task.output_domain].at[:, top:].set(3)}
    half, other = (
        task_losses(config, predicted, v, nothing, None, {task.output_domain: jnp.asarray(there)})[task.output_domain]
        for v in (values, filled)
    )
    shown = np.asarray(values[task.output_domain])[:, :top]
    by_hand = {"mse": (shown**2).mean(), "l1": np.abs(shown).mean(), "ce": np.log(5)}[task.loss]
    np.testing.assert_allclose(half, by_hand, rtol=1e-5)
    np.testing.assert_array_equal(half, other)


def test_decoders_of_their_own_modality_have_no_other_context():
    params, values = from_authors(weights(), CONFIG), {k: jnp.asarray(v) for k, v in batch().items()}
    seen = budgets.all_visible(2, [16] * 3)
    own = replace(CONFIG, own_modality_only=True)
    model = own.model()
    # The encoder mixes maps; what the decoder may read is its own tokens, so compare with the encoder held fixed.
    encoded, _, _ = model.encode(params, values, seen)
    other = encoded.at[:, :16].add(1.0)  # the tokens of rgb
    a, b = (model.decode(params, e, seen, values)["depth"] for e in (encoded, other))
    np.testing.assert_array_equal(a, b)
    a, b = (CONFIG.model().decode(params, e, seen, values)["depth"] for e in (encoded, other))
    assert not np.allclose(a, b)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_encoded_tokens": 0}, "visible"), ({"num_encoded_tokens": 49}, "visible"), ({"alpha": 0.0}, "alphas"), ({"tasks": ()}, "tasks"),
        ({"tasks": (Task("thermal"),)}, "thermal"), ({"tasks": (Task("depth", "ce"),)}, "ce"), ({"maps": ()}, "maps"),
        ({"tasks": (Task("rgb"), Task("rgb"))}, "once"), ({"encoder": replace(CONFIG.encoder, width=18)}, "width"),
        ({"maps": (replace(MAPS[0], patch=5),), "tasks": (Task("rgb"),)}, "patch"),
        ({"maps": (MAPS[0], replace(MAPS[1], patch=8)), "tasks": (Task("rgb"),)}, "grid"),
    ],
)  # fmt: skip
def test_impossible_configs_are_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        replace(CONFIG, **change).build()


def test_the_position_base_is_everywhere_and_learns_nothing_more():
    short = replace(CONFIG, position_base=10.0)
    params, values = from_authors(weights(), CONFIG), {k: jnp.asarray(v) for k, v in batch().items()}
    seen = budgets.all_visible(2, [16] * 3)
    a, b = (replace(c, tasks=TASKS[:1]).model() for c in (CONFIG, short))
    encoded, _, _ = b.encode(params, values, seen)
    assert not np.allclose(encoded, a.encode(params, values, seen)[0], atol=1e-3)
    # Decoders too: the same tokens read at other places.
    assert not np.allclose(
        b.decode(params, encoded, seen, values)["rgb"], a.decode(params, encoded, seen, values)["rgb"], atol=1e-3
    )


def test_paper_data_flows_into_the_paper_s_maps():
    from configs.masked.multimae import get_config
    from mmrep.data import pipeline
    from mmrep.modality import check_batch

    paper = get_config("paper")
    source = replace(paper.data.source, source=replace(paper.data.source.source, n_train=2))
    split = pipeline.open_split(paper.data, None, "train", source)
    found = next(pipeline.train_batches(split, 2, 0))
    check_batch(paper.data.modalities, found)
    assert {m.name: found[m.name].shape[1:3] for m in paper.system.maps} == {m.name: m.size for m in paper.system.maps}
    # One crop for all: things stand out of the ground where their classes are.
    nearer = found["depth"][..., 0].reshape(2, 56, 4, 56, 4).mean((2, 4)) < 0.9
    assert ((found["semseg"] > 0) == nearer).mean() > 0.9
