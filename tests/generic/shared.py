"""What the generic tests of one system share: its tiny config, one compiled step, and one compiled program of all its infer functions."""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from selection import PANEL

from mmrep import catalogue
from mmrep.config import Experiment, Mesh, Optim, Phase
from mmrep.data import pipeline
from mmrep.errors import ConfigError
from mmrep.system import System
from mmrep.training import loop, sharding
from mmrep.training.state import merge, split

SLUGS = [e.slug for e in catalogue.entries()]
every_system = pytest.mark.parametrize("slug", SLUGS)
of_the_panel = pytest.mark.parametrize("slug", [s for s in SLUGS if s in PANEL])
Batch = Mapping[str, np.ndarray]


def assert_close(a: Any, b: Any, name: str, atol: float = 2e-5, rtol: float = 1e-4) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=rtol, err_msg=name), a, b)


def equal(a: Any, b: Any) -> bool:
    """Whether two trees hold the same bits; NaN equals NaN."""

    def same(x: Any, y: Any) -> bool:
        x, y = np.asarray(x), np.asarray(y)
        return bool(np.array_equal(x, y, equal_nan=x.dtype.kind == "f"))

    return jax.tree.all(jax.tree.map(same, a, b))


def take(tree: Any, rows: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[rows], tree)


def configs(slug: str) -> dict[str, Experiment]:
    """{"size" or "size variant": config}. A system may have a variant at some of its sizes only, but at one at least."""
    entry = catalogue.find(slug)
    found = {size: catalogue.experiment(slug, size) for size in entry.sizes}
    for variant in entry.variants:
        made = {}
        for size in entry.sizes:
            with contextlib.suppress(ConfigError):
                made[f"{size} {variant}"] = catalogue.experiment(slug, size, variant)
        assert made, f"no size has the variant {variant!r}"
        found |= made
    return found


def gradient_phases(config: Experiment) -> list[int]:
    return [i for i, p in enumerate(config.phases) if p.run is None]


@cache
def tiny(slug: str) -> Experiment:
    """The last gradient phase of a system's tiny config: 4 steps on one device, with an average of the parameters.

    No warm-up, so that the first step moves the parameters; the batch divides over four devices. All phases of a system without gradients.
    """
    config = catalogue.experiment(slug, "tiny")
    if not gradient_phases(config):
        return dataclasses.replace(config, mesh=Mesh(1, 1), evals=())
    phase = config.phases[gradient_phases(config)[-1]]
    optim = dataclasses.replace(phase.optim or config.optim, warmup=0)
    return dataclasses.replace(
        config, mesh=Mesh(1, 1), evals=(), optim=optim,
        data=dataclasses.replace(config.data, batch_size=-(-config.data.batch_size // 4) * 4),
        phases=(dataclasses.replace(phase, steps=4, start=(), optim=None),),
        train=dataclasses.replace(config.train, ema=0.9, log_every=2, checkpoint_every=0),
    )  # fmt: skip


RATE = 0.1


def descending(config: Experiment) -> Experiment:
    """`config` with plain gradient descent: a step is the gradient itself, and a third of the program less to compile.

    No decay moves a parameter that the loss does not reach, and gradients can be compared to their last digits.
    """
    optim = Optim("sgd", lr=RATE, schedule="constant", b1=0.0, weight_decay=0.0, clip=None)
    return dataclasses.replace(config, optim=optim, train=dataclasses.replace(config.train, ema=0.0))


@dataclasses.dataclass(frozen=True)
class OneStep:
    """A tiny system before and after its first step of gradient descent, or after its phases where these are functions.

    batches: the first two training batches.   before, after: the whole state as NumPy arrays.   metrics: those of the first step.
    """

    config: Experiment
    stage: loop.PhaseState
    tokenize: Any
    batches: tuple[Batch, Batch]
    before: Any
    after: Any
    metrics: Mapping[str, float]

    @property
    def system(self) -> System:
        return self.stage.system

    @property
    def phase(self) -> Phase:
        return self.stage.phase

    @property
    def batch(self) -> Batch:
        return self.batches[0]

    def smallest(self) -> tuple[Any, Any]:
        """((loss, gradients) or None for a system without a loss, {name: result of infer}) of a batch of one row; one program for both.

        Raises ConfigError where the loss needs more rows.
        """
        loss, system, (learnt, frozen) = (
            self.system.loss,
            self.system,
            split(self.after["params"], self.phase.trainable),
        )

        def both(learnt: Any, extras: Any, batch: Any, rng: Any) -> Any:
            params = merge(learnt, frozen)
            found = {n: call(system, n, params, extras, batch) for n in system.infer}
            if loss is None:
                return None, found
            return jax.value_and_grad(lambda p: loss(merge(p, frozen), extras, batch, rng)[0])(learnt), found

        with jax.set_mesh(sharding.make_mesh(self.config.mesh)):  # a ring needs a mesh
            one = jax.jit(both)(learnt, self.after["extras"], take(self.batch, slice(1)), jax.random.key(0))
        return jax.tree.map(np.asarray, one)

    def step(self, state: Any, batch: Batch) -> tuple[Any, dict[str, float]]:
        """One step by the compiled program: (state, metrics). Skips the test of a system that takes no gradient steps."""
        return take_step(self.stage, state, batch)

    def infer(self, batch: Batch, names: Iterable[str] | None = None) -> dict[str, Any]:
        """{name: result} of the system's infer functions (default: all) on a batch with the trained parameters; one program for all."""
        names = tuple(self.system.infer if names is None else names)
        return jax.tree.map(np.asarray, _program(self.system, names)(self.after["params"], self.after["extras"], batch))

    def shapes(self, name: str, batch: Batch) -> Any:
        """The shapes and dtypes of infer[name] on a batch; nothing is computed."""
        return jax.eval_shape(
            lambda p, e, b: call(self.system, name, p, e, b), self.after["params"], self.after["extras"], batch
        )


def call(system: System, name: str, params: Any, extras: Any, batch: Batch) -> Any:
    """infer[name]; the pair score gets the tokens that the system itself gives for each row."""
    if name.startswith("score"):
        pairs = {}
        for function in (n for n in system.infer if n.endswith("_tokens")):
            tokens, valid = system.infer[function](params, extras, batch)
            pairs |= {function: tokens, f"{function.removesuffix('_tokens')}_valid": valid}
        batch = pairs
    return system.infer[name](params, extras, batch)


_programs: dict[Any, Any] = {}


def _program(system: System, names: tuple[str, ...]) -> Any:
    key = (id(system.loss or system.init), names)
    if key not in _programs:
        _programs[key] = jax.jit(lambda p, e, b: {n: call(system, n, p, e, b) for n in names})
    return _programs[key]


def take_step(stage: loop.PhaseState, state: Any, batch: Batch) -> tuple[Any, dict[str, float]]:
    """(state, metrics) after one step of `stage` from a state of NumPy arrays, on the stage's own mesh."""
    if stage.step is None:
        pytest.skip("this system takes no gradient steps")
    places = sharding.of(stage.abstract)
    mesh = next(p.mesh for p in jax.tree.leaves(places) if isinstance(p, NamedSharding))
    with jax.set_mesh(mesh):
        placed = jax.tree.map(jax.device_put, state, places)
        rows = sharding.put_batch(dict(batch), sharding.batch_sharding(mesh))
        new, metrics = stage.step(placed, rows, jax.device_put(jax.random.key(0), sharding.replicated(mesh)))
    return new, {k: float(v) for k, v in metrics.items()}


@lru_cache(maxsize=1)
def one_step(slug: str) -> OneStep:
    """The shared state of a system; that of the system before is forgotten, with its programs, which take gigabytes together."""
    _programs.clear()
    jax.clear_caches()
    config = tiny(slug)
    if gradient_phases(config):
        config = descending(config)
    mesh = sharding.make_mesh(config.mesh)
    phase = config.phases[0]
    tokenize = pipeline.load_tokenizer(config.data, pipeline.fit_tokenizer(config.data, [config.data.source], None))
    records = pipeline.open_split(config.data, tokenize, "train", phase.data)
    batches = pipeline.train_batches(records, config.data.batch_size, 0)
    first, second = next(batches), next(batches)
    with jax.set_mesh(mesh):
        stage = loop.make_phase_state(config, 0, mesh)
        params, extras = loop.initial(config)
        if phase.begin is not None:
            params, extras = jax.jit(phase.begin)(params, extras)
        before = jax.tree.map(np.asarray, stage.create(params, extras))
    if stage.step is None:
        done = loop.train(config, progress=False)
        after, metrics = before | {"params": done.params, "extras": done.extras}, {"skips": 0.0}
    else:
        after, metrics = take_step(stage, before, first)
    return OneStep(config, stage, tokenize, (first, second), before, jax.tree.map(np.asarray, after), metrics)
