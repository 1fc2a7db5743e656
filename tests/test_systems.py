"""What holds for every system, over the tiny config of each: these tests are the contract."""

import dataclasses
import json
import os
from functools import cache, lru_cache
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _cli
from mmrep import catalogue, modality
from mmrep.config import Experiment, Mesh, Rule, flatten, from_json, to_json
from mmrep.data import pipeline
from mmrep.nn.dual import inputs
from mmrep.training import loop, sharding
from mmrep.training.state import split

GOLDEN = Path(__file__).parent / "golden" / "specs"
SLUGS = [e.slug for e in catalogue.entries()]
# A system's tests run side by side (conftest): the state they share is made once.
everywhere = pytest.mark.parametrize("slug", SLUGS)


def assert_close(a, b, name, atol=2e-5, rtol=1e-4):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=rtol, err_msg=name), a, b)


def take(tree, rows):
    return jax.tree.map(lambda x: np.asarray(x)[rows], tree)


def gradient_phases(config: Experiment) -> list[int]:
    return [i for i, p in enumerate(config.phases) if p.run is None]


@cache
def tiny(slug: str) -> Experiment:
    """The tiny config on one device, with batches that divide over four."""
    config = _cli.experiment(slug, "tiny")
    data = dataclasses.replace(config.data, batch_size=-(-config.data.batch_size // 4) * 4)
    return dataclasses.replace(config, mesh=Mesh(1, 1), data=data)


@lru_cache(maxsize=1)
def made(slug: str) -> SimpleNamespace:
    """The tiny system's last gradient phase, its state after 0 and 1 steps, and a real training batch."""
    jax.clear_caches()  # the programs of all systems together would take gigabytes
    config = tiny(slug)
    mesh = sharding.make_mesh(config.mesh)
    index = gradient_phases(config)[-1]
    phase = config.phases[index]
    tokenizer = pipeline.fit_tokenizer(config.data, [config.data.source], None)
    tokenize = pipeline.load_tokenizer(config.data, tokenizer)
    records = pipeline.open_split(config.data, tokenize, "train", phase.data)
    batch = next(pipeline.train_batches(records, config.data.batch_size, 0))
    key = jax.random.key(0)
    with jax.set_mesh(mesh):
        stage = loop.make_stage(config, index, mesh)
        params, extras = loop.initial(config)
        if phase.begin is not None:
            params, extras = phase.begin(params, extras)
        start = stage.create(params, extras)
        before = jax.tree.map(np.asarray, start)
        after, metrics = stage.step(start, sharding.put_batch(batch, sharding.batch_sharding(mesh)), key)
    return SimpleNamespace(
        config=config, phase=phase, system=stage.system, batch=batch, before=before, tokenize=tokenize,
        after=jax.tree.map(np.asarray, after), metrics={k: float(v) for k, v in metrics.items()},
    )  # fmt: skip


@everywhere
def test_config_round_trips_through_json(slug):
    for size in catalogue.find(slug).sizes:
        config = _cli.experiment(slug, size)
        assert from_json(json.loads(json.dumps(to_json(config)))) == config


@everywhere
def test_parameter_tree_is_the_golden_one(slug):
    params, extras = jax.eval_shape(lambda: loop.initial(_cli.experiment(slug, "tiny")))
    found = {k: f"{v.dtype}{list(v.shape)}" for k, v in flatten({"params": params, "extras": extras}).items()}
    weak = [k for k, v in flatten({"params": params, "extras": extras}).items() if getattr(v, "weak_type", False)]
    assert not weak, f"weakly typed leaves compile the step again: {weak}"
    path = GOLDEN / f"{slug}.json"
    if os.environ.get("MMREP_REGENERATE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")
    golden = json.loads(path.read_text())
    assert found == golden, (
        "the parameter tree changed: if that was meant, run with MMREP_REGENERATE=1 and commit the file"
    )


@everywhere
def test_every_size_builds_and_fits_its_modalities(slug):
    for size in catalogue.find(slug).sizes:
        config = _cli.experiment(slug, size)
        system = config.system.build()
        batch = jax.eval_shape(
            lambda m=config.data.modalities: {k: jnp.asarray(v) for k, v in modality.example(m, 4).items()}
        )
        params, extras = jax.eval_shape(system.init, jax.random.key(0), batch)
        for phase in config.phases:
            if phase.run is None:
                loss = (phase.system or config.system).build().loss
                with jax.set_mesh(sharding.make_mesh(Mesh(1, 1))):  # a ring needs a mesh
                    value, (kept, metrics) = jax.eval_shape(loss, params, extras, batch, jax.random.key(0))
                assert value.shape == () and value.dtype == jnp.float32
                assert jax.tree.map(lambda x: (x.shape, x.dtype), kept) == jax.tree.map(
                    lambda x: (x.shape, x.dtype), extras
                )
                assert all(m.shape == () for m in metrics.values())


@everywhere
def test_one_step_moves_what_is_trainable_and_nothing_else(slug):
    m = made(slug)
    assert all(np.isfinite(v) for v in m.metrics.values()), m.metrics
    assert m.metrics["skips"] == 0
    before, after = flatten(m.before["params"]), flatten(m.after["params"])
    learnt, frozen = split(m.before["params"], m.phase.trainable)
    still = [p for p in learnt if np.array_equal(before[p], after[p])]
    assert not still, f"trainable but unmoved (no gradient reaches them): {still}"
    assert all(np.array_equal(before[p], after[p]) for p in frozen)


@everywhere
def test_loss_is_pure(slug):
    m = made(slug)
    given = {k: v.copy() for k, v in m.batch.items()}
    loss = jax.jit(m.system.loss)
    first = loss(m.before["params"], m.before["extras"], m.batch, jax.random.key(3))
    second = loss(m.before["params"], m.before["extras"], m.batch, jax.random.key(3))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), first, second))
    assert all(np.array_equal(given[k], m.batch[k]) for k in given)


def inputs_of(m, name: str, batch):
    """What infer[name] takes: the batch, or for a pair score its encoded pairs."""
    if not name.startswith("score"):
        return batch
    params, extras = m.after["params"], m.after["extras"]
    pairs = {n: m.system.infer[f"{n}_tokens"](params, extras, batch) for n in ("image", "text")}
    return {f"{n}_{kind}": v for n in pairs for kind, v in zip(("tokens", "valid"), pairs[n])}


@everywhere
def test_infer_rows_are_independent_of_each_other(slug):
    m = made(slug)
    order = np.random.default_rng(0).permutation(len(next(iter(m.batch.values()))))
    half = {k: np.concatenate([v[order[:2]]] * (len(v) // 2)) for k, v in m.batch.items()}
    for name, function in m.system.infer.items():
        run = jax.jit(function)
        whole, shuffled, repeated = (
            run(m.after["params"], m.after["extras"], inputs_of(m, name, b))
            for b in (m.batch, take(m.batch, order), half)
        )
        assert_close(take(whole, order), shuffled, name)
        assert_close(take(whole, order[:2]), take(repeated, slice(2)), name)


@everywhere
def test_infer_does_not_see_padding(slug):
    m = made(slug)
    ragged = [x for x in m.config.data.modalities if x.kind in ("text", "audio")]
    if not ragged:
        pytest.skip("no ragged modality")
    other = dict(m.batch)
    shorter = dict(m.batch)
    for x in ragged:
        values = m.batch[x.name]
        if x.kind == "audio":
            hidden = np.arange(values.shape[1]) >= m.batch[f"{x.name}_length"][:, None]
            other[x.name] = np.where(hidden, 0.3, values).astype(np.float32)
        else:
            shorter[x.name] = values[:, : max(int((values > 0).sum(1).max()), 1)]
    for name, function in m.system.infer.items():
        whole = function(m.after["params"], m.after["extras"], inputs_of(m, name, m.batch))
        for changed in (other, shorter):
            found = function(m.after["params"], m.after["extras"], inputs_of(m, name, changed))
            if jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, whole):
                assert_close(whole, found, name)


@everywhere
def test_infer_of_one_modality_needs_no_other(slug):
    m = made(slug)
    for name in (x.name for x in m.config.data.modalities if x.name in m.system.infer):
        alone = {k: v for k, v in m.batch.items() if k in (name, f"{name}_length")}
        assert len(inputs(alone, name))
        out = m.system.infer[name](m.after["params"], m.after["extras"], alone)
        assert jax.tree.leaves(out)[0].shape[0] == len(m.batch[name])


@everywhere
def test_training_resumes_bit_for_bit_and_compiles_once(slug, tmp_path):
    config = tiny(slug)
    phase = config.phases[gradient_phases(config)[-1]]
    short = dataclasses.replace(
        config, phases=(dataclasses.replace(phase, steps=4, start=()),), evals=(), optim=dataclasses.replace(config.optim, warmup=0),
        train=dataclasses.replace(config.train, ema=0.9, log_every=2, checkpoint_every=0),
    )  # fmt: skip
    if phase.optim is not None:
        short = dataclasses.replace(
            short, phases=(dataclasses.replace(short.phases[0], optim=dataclasses.replace(phase.optim, warmup=0)),)
        )
    straight = loop.train(short, progress=False)
    loop.train(short, tmp_path / "run", progress=False, stop=2)
    resumed = loop.train(short, tmp_path / "run", progress=False, say=lambda _: None)
    same = lambda a, b: bool(np.array_equal(np.asarray(a), np.asarray(b)))  # noqa: E731
    assert jax.tree.all(jax.tree.map(same, straight.params, resumed.params))
    assert jax.tree.all(jax.tree.map(same, straight.extras, resumed.extras))
    assert straight.compilations == 1 and resumed.compilations == 1


@everywhere
@pytest.mark.parametrize("shape", [(4, 1), (2, 2)])
def test_sharded_training_equals_one_device(slug, shape):
    m = made(slug)
    mesh = sharding.make_mesh(Mesh(*shape))
    rules = (
        (Rule(".*kernel", "fsdp", min_size=64),) if shape == (4, 1) else (Rule(".*kernel", "shard_dim", "model", -1),)
    )
    config = dataclasses.replace(m.config, mesh=Mesh(*shape), sharding=rules)
    index = gradient_phases(config)[-1]
    with jax.set_mesh(mesh):
        try:
            stage = loop.make_stage(config, index, mesh)
        except Exception as error:  # a kernel whose last dim is odd stays whole
            if "divides over" not in str(error):
                raise
            config = dataclasses.replace(config, sharding=(Rule(".*kernel", "fsdp", "model", min_size=64),))
            stage = loop.make_stage(config, index, mesh)
        state = jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), m.before, stage.abstract)
        sharded = [x for x in jax.tree.leaves(state["params"]) if not x.sharding.is_fully_replicated]
        assert sharded, "no parameter is sharded: the test would compare nothing"
        after, metrics = stage.step(
            state, sharding.put_batch(m.batch, sharding.batch_sharding(mesh)), jax.random.key(0)
        )
    np.testing.assert_allclose(float(metrics["loss"]), m.metrics["loss"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(float(metrics["grad_norm"]), m.metrics["grad_norm"], rtol=2e-4, atol=1e-5)
    # AdamW's first step is lr * sign(gradient): where a gradient is rounding noise, so is its sign.
    far = [
        k for k, v in flatten(after["params"]).items()
        if np.mean(np.abs(np.asarray(v) - flatten(m.after["params"])[k]) > 1e-5) > 0.02
    ]  # fmt: skip
    assert not far, far
