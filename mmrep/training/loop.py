"""The one loop: phases, checkpoints, evaluation and logging around a jitted step. It depends on the contract alone."""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from tqdm import tqdm

from mmrep import modality, paths
from mmrep.config import Experiment, Phase, Pretrained, fingerprint, flatten, to_json
from mmrep.data import pipeline
from mmrep.errors import ConfigError, DataError
from mmrep.interop import foreign, safetensors
from mmrep.model import Model
from mmrep.system import Extras, Params, System
from mmrep.training import distributed, faults, sharding, state
from mmrep.training import metrics as metric_log
from mmrep.training.checkpoint import Checkpoints
from mmrep.training.optim import check_factors, optimizer
from mmrep.training.workdir import open_workdir, versions


class Context(NamedTuple):
    """The third argument of a phase that is a plain function (`Phase.run`): its training split, the system and a key.

    open: (name of a split) -> that split of the phase's data, "val" for a stopping rule, say. Raises DataError where there is none.
    """

    split: pipeline.Split
    system: System
    rng: jax.Array
    open: Callable[[str], pipeline.Split]


class PhaseState(NamedTuple):
    """A phase ready to run: its system, its sharded step with the optimiser, and the shapes and shardings of its state."""

    phase: Phase
    system: System
    create: Callable[[Params, Extras], state.State]
    step: Any  # jitted: (state, batch, key) -> (state, metrics), the state donated; None where the phase is a plain function
    abstract: state.State


def initial(experiment: Experiment, places: Any = None) -> tuple[Params, Extras]:
    """(params, extras) of the experiment's system at its seed, created directly with the shardings `places`: no device holds them whole."""
    system = experiment.system.build()
    example = modality.example(experiment.data.modalities, min(experiment.data.batch_size, 8))
    mesh = jax.tree.leaves(places)[0].mesh if places else None
    return jax.jit(system.init, out_shardings=places)(sharding.key(experiment.train.seed, mesh), example)


def train(
    experiment: Experiment,
    workdir: paths.Place | None = None,
    *,
    evaluate: Callable[[Model], Mapping[str, float]] | None = None,
    sentencepiece: bytes | None = None,
    meta: Mapping[str, Any] | None = None,
    progress: bool = True,
    stop: int | None = None,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    guard: faults.Guard | None = None,
    wandb: bool = False,
    wait: bool = False,
) -> Model:
    """Trains `experiment` to its last step; with a `workdir` it checkpoints, logs, and resumes what is there.

    evaluate: called with the model after the last step, and every `train.eval_every` steps; its metrics are logged and returned
    (`mmrep.evals.suite.evaluate` runs the experiment's own evaluators).
    sentencepiece: the serialised tokenizer of a new run, in place of one fitted to its texts.
    stop: end after this many steps in all, as if killed there, but saved.   meta: stored beside the config (slug, size).
    wandb: log to Weights & Biases as well.   wait: for another process that trains in `workdir`, instead of an error.
    guard: handles signals and hanging steps, see `faults.Guard`.
    Raises ConfigError where `workdir` holds a run of another config, or a field cannot work on this machine; DataError where a
    checkpoint is damaged beyond help, the disk is full, another process trains in `workdir`, or the data changed since the run began.
    """
    guard, say = guard or faults.Guard(), say if distributed.leads() else (lambda _: None)
    config, total = experiment.train, min(experiment.steps, stop or experiment.steps)
    mesh = sharding.make_mesh(experiment.mesh)
    parts = sharding.row_parts(mesh)
    if experiment.data.batch_size % (parts * config.accumulate):
        raise ConfigError(
            f"data.batch_size {experiment.data.batch_size} does not divide over mesh.data (x mesh.fsdp) {parts} x train.accumulate {config.accumulate}"
        )
    if evaluate is not None and experiment.data.eval_batch_size % parts:
        raise ConfigError(
            f"data.eval_batch_size {experiment.data.eval_batch_size} does not divide over mesh.data (x mesh.fsdp) {parts}"
        )
    with ExitStack() as stack:
        stack.enter_context(faults.full_disk(workdir))
        if workdir and jax.process_index() == 0:
            stack.enter_context(paths.locked(paths.make(workdir, "give another --workdir"), wait))
        with distributed.leader_first():
            tokenizer = open_workdir(experiment, workdir, meta, sentencepiece)
            tokenize = pipeline.load_tokenizer(experiment.data, tokenizer)
            if evaluate is not None:
                _check_evaluators(experiment, tokenize)
        key = sharding.key(config.seed, mesh)
        place = partial(sharding.put_batch, sharding=sharding.batch_sharding(mesh))
        # On a mesh that spans processes, each gets the whole of a result.
        results = sharding.replicated(mesh) if jax.process_count() > 1 else None
        model = partial(Model, experiment, sentencepiece=tokenizer, tokenize=tokenize)
        stages = phase_states(experiment, mesh)
        stack.enter_context(jax.set_mesh(mesh))
        saves = stack.enter_context(Checkpoints(workdir / "checkpoints", config.keep_checkpoints)) if workdir else None
        found = saves.newest(lambda step: stages(experiment.phase_at(step - 1)[0]).abstract, say) if saves else None
        current: Any
        done, current = found or (0, None)
        log = metric_log.Writer(workdir if jax.process_index() == 0 else None, done, to_json(experiment), wandb)
        stack.callback(log.close)
        stack.callback(guard.pause)

        def save(step: int, current: state.State) -> None:
            assert saves is not None
            log.sync()
            saves.save(step, current)

        def measure(step: int, current: state.State, system: System) -> bool:
            """Evaluates during training if it is due at this step; returns whether it was."""
            due = bool(config.eval_every) and step % config.eval_every == 0 and step < experiment.steps
            if due and evaluate is not None:
                guard.heartbeat(faults.PATIENCE)
                params, extras = state.evaluated(current), current["extras"]
                found = evaluate(model(params=params, extras=extras, system=system, place=place, results=results))
                log.write(step, {f"eval/{k}": v for k, v in found.items()})
            return due

        at, compiled, told = -1, 0, ""
        if done:
            at, _ = experiment.phase_at(done - 1)
            stage = stages(at)
            say(
                f"nothing left to do: {workdir} is at step {done} of {total}"
                if done >= total
                else f"resuming {workdir} at step {done} of {total}"
            )
            if done < total:  # the kill may have come between a checkpoint and its evaluation
                measure(done, current, stage.system)
        bar = stack.enter_context(
            tqdm(total=total, initial=done, unit="step", disable=not progress, dynamic_ncols=True, smoothing=0.05)
        )
        while (done < total and not guard.signal) or current is None:
            index, start = experiment.phase_at(done)
            if index != at:
                stage, at = stages(index), index
                current = start_phase(stage, experiment, current, progress)
            source = stage.phase.data or experiment.data.source
            open_split = partial(pipeline.open_split, experiment.data, tokenize, source=source)
            split = open_split("train")
            if (note := split.leftovers()) and note != told:
                say(note)
                told = note
            if stage.phase.run is not None:
                context = Context(split, stage.system, jax.random.fold_in(key, done), open_split)
                params, extras = stage.phase.run(current["params"], current["extras"], context)
                moved = {"params": params, "extras": extras, "step": current["step"] + 1}
                current = jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), current | moved, current)
                done += 1
                guard.stopping(done)
            else:
                end, before = min(total, start + stage.phase.steps), stage.step._cache_size()
                current, done = _steps(
                    experiment, stage, current, split, key, mesh, done, end, bar, log, saves, measure, guard, say
                )
                compiled += stage.step._cache_size() - before
            if saves and done < total:
                save(done, current)
        if saves:
            save(done, current)
        bar.close()
        if guard.signal:
            if saves:
                saves.wait()
            kept = f"saved in {workdir}: the same command resumes there" if saves else "not saved: no workdir was given"
            say(f"{guard.signal}: stopped after step {done} of {total}, {kept}")
        if int(current["skipped"]):
            say(f"{int(current['skipped'])} of {done} steps were skipped: loss or gradient not finite, or a spike")
        params, extras = state.evaluated(current), current["extras"]
        final: Mapping[str, float] = {}
        if evaluate is not None and done >= experiment.steps and not guard.signal:
            final = evaluate(model(params=params, extras=extras, system=stage.system, place=place, results=results))
            if final:
                log.write(done, {f"eval/{k}": v for k, v in final.items()})
            if workdir and jax.process_index() == 0:
                paths.replace(workdir / "evaluation.json", json.dumps(final, indent=1, ensure_ascii=False))
        params, extras = distributed.to_host((params, extras))
        return model(params=params, extras=extras, metrics=final, rows=log.rows, compilations=compiled)


def _check_evaluators(experiment: Experiment, tokenize: Any) -> None:
    """Before training, not after it: evaluators whose split is absent, or whose own `check` refuses their settings."""
    names = tuple((experiment.phases[-1].system or experiment.system).build().infer)
    opened = lru_cache(None)(partial(pipeline.open_split, experiment.data, tokenize))
    for evaluator in experiment.evals:
        if hasattr(evaluator, "split"):
            opened(evaluator.split)
        if hasattr(evaluator, "check"):
            evaluator.check(names, opened)


def _steps(
    experiment: Experiment, stage: PhaseState, current: state.State, split: pipeline.Split, key: jax.Array, mesh: Any,
    done: int, end: int, bar: Any, log: metric_log.Writer, saves: Checkpoints | None, measure: Any, guard: faults.Guard,
    say: Callable[[str], None],
) -> tuple[state.State, int]:  # fmt: skip
    """Gradient steps done..end of one phase, or to where the guard stops it: (state, steps done).

    The host never waits for the newest step: metrics are fetched one log point late, or at a checkpoint, which waits anyway.
    """
    config, size = experiment.train, experiment.data.batch_size
    _, start = experiment.phase_at(done)
    process = (jax.process_index(), jax.process_count())
    host = pipeline.train_batches(split, size, config.seed + start, done - start, process)
    batches = _ahead(host, sharding.batch_sharding(mesh))
    running: deque[jax.Array] = deque()
    late: tuple[int, Mapping[str, jax.Array], dict[str, float]] | None = None
    waited, clock, since = 0.0, time.perf_counter(), done

    first: jax.Array | None = None

    def flush() -> None:
        nonlocal late, first
        if first is not None:
            if sentence := beside_chance(experiment, float(jax.device_get(first))):
                bar.clear()  # or the sentence would go on in the bar's line
                say(sentence)
                bar.refresh()
            first = None
        if late is None:
            return
        (step, values, rates), late = late, None
        read = {f"train/{k}": float(v) for k, v in jax.device_get(dict(values)).items()}
        bad = int(read.pop("train/bad"))
        log.write(step, read | rates)
        bar.set_postfix_str(
            f"loss {read['train/loss']:.3f}, {rates['examples_per_second']:.0f} examples/s", refresh=False
        )
        if read["train/skips"] >= config.max_skips:
            learnt, _ = state.split(current["params"], stage.phase.trainable)
            where = faults.first_nonfinite(current["params"], sorted(learnt), bad)
            raise ConfigError(
                f"the loss or gradient was not finite for {int(read['train/skips'])} steps in a row up to step {step}, first {where}; lower optim.lr or look at the data with experiments.inspect"
            )

    guard.heartbeat(faults.PATIENCE)
    saved = time.perf_counter()
    for step in range(done + 1, end + 1):
        before = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - before
        with jax.transfer_guard("disallow"):
            current, values = stage.step(current, batch, key)
        first = values["loss"] if step == 1 else first
        running.append(values["loss"])
        if len(running) > 2:  # bounds the steps in flight, and so the memory, without idling the device
            running.popleft().block_until_ready()
        bar.update()
        leave = guard.stopping(step)
        if step % config.log_every == 0 or step == end or leave:
            flush()
            now = time.perf_counter()
            rate = (step - since) * size / (now - clock)
            late = (step, values, {"examples_per_second": rate, "data_wait": waited / (now - clock)})
            waited, clock, since = 0.0, now, step
        if leave:
            break
        logged = step % config.log_every == 0
        by_time = bool(config.checkpoint_minutes and saves) and distributed.leader_says(
            time.perf_counter() - saved > 60 * config.checkpoint_minutes, asked=logged
        )  # fmt: skip
        by_step = config.checkpoint_every and step % config.checkpoint_every == 0
        if saves and (by_time or by_step) and step < end:
            saved = time.perf_counter()
            guard.heartbeat(faults.PATIENCE)
            flush()  # what is logged up to a checkpoint is on the disk before it
            log.sync()
            saves.save(step, current)
        if measure(step, current, stage.system):
            clock, since, waited = time.perf_counter(), step, 0.0
        guard.heartbeat()
    flush()
    guard.pause()
    return current, step


def beside_chance(experiment: Experiment, loss: float) -> str:
    """The loss of a run's first step beside that of guessing, in one sentence; "" for systems without `chance_loss`.

    A system's config may have `chance_loss(batch_size) -> float | None`: its loss at equal logits, such as log(batch size) for InfoNCE.
    """
    of = getattr(experiment.system, "chance_loss", None)
    chance = None if of is None else of(experiment.data.batch_size // experiment.train.accumulate)
    if chance is None:
        return ""
    return (
        f"first step: loss {loss:.3f}; guessing has {chance:.3f}. A loss that stays near it usually means a learning rate too high or too low, "
        "pairs that do not belong together, or an encoder whose inputs are all alike: try --overfit-one-batch"
    )


def _ahead(batches: Iterator[pipeline.HostBatch], where: Any, depth: int = 2) -> Iterator[dict[str, jax.Array]]:
    """The batches on the devices, `depth` of them in transfer at a time."""
    ready: deque[dict[str, jax.Array]] = deque()
    for batch in batches:
        ready.append(sharding.put_batch(batch, where))
        if len(ready) == depth:
            yield ready.popleft()


def phase_states(experiment: Experiment, mesh: Any) -> Callable[[int], PhaseState]:
    """(index of a phase) -> its PhaseState. Phases of equal system, optimiser, trainable paths and steps share one, and so compile once.

    One is kept as long as a phase with it is to come: programs hold memory.
    """
    contents = [
        (p.system or experiment.system, p.optim or experiment.optim, p.trainable, p.steps, p.run is None)
        for p in experiment.phases
    ]
    first = [contents.index(content) for content in contents]
    kept: dict[int, PhaseState] = {}

    def at(index: int) -> PhaseState:
        for passed in {*kept} - {*first[index:]}:
            del kept[passed]
        if first[index] not in kept:
            kept[first[index]] = make_phase_state(experiment, index, mesh)
        return kept[first[index]]._replace(phase=experiment.phases[index])

    return at


def make_phase_state(experiment: Experiment, index: int, mesh: Any) -> PhaseState:
    """Raises ConfigError for a phase of gradient steps where the system has no loss."""
    phase, config = experiment.phases[index], experiment.train
    system = (phase.system or experiment.system).build()
    tx, create = _creator(experiment, phase)
    abstract = abstract_state(experiment, index, mesh)
    places = sharding.of(abstract)
    rows, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    step = None if phase.run else jax.jit(
        state.make_step(system, tx, phase.trainable, config), donate_argnums=0,
        in_shardings=(places, rows, everywhere), out_shardings=(places, everywhere),
    )  # fmt: skip
    return PhaseState(phase, system, jax.jit(create, out_shardings=places), step, abstract)


def _creator(experiment: Experiment, phase: Phase) -> tuple[Any, Callable[[Params, Extras], state.State]]:
    optim = phase.optim or experiment.optim
    tx = optimizer(optim, phase.steps)

    def create(params: Params, extras: Extras) -> state.State:
        if phase.run:  # no optimiser
            return state.create(params, extras, tx, (), experiment.train)
        check_factors(optim, flatten(params))
        return state.create(params, extras, tx, phase.trainable, experiment.train)

    return tx, create


def abstract_state(experiment: Experiment, index: int, mesh: Any) -> state.State:
    """Shapes, dtypes and shardings of the state in phase `index`; nothing is computed or allocated."""
    _, create = _creator(experiment, experiment.phases[index])
    shapes = jax.eval_shape(create, *jax.eval_shape(lambda: initial(experiment)))
    places = sharding.by_rules(shapes, experiment.sharding, mesh)
    return jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, places)


def start_phase(stage: PhaseState, experiment: Experiment, current: state.State | None, progress: bool) -> state.State:
    """The state at the start of a phase: parameters of the phase before (or fresh), pretrained parts, `begin`, a new optimiser."""
    if current is None:
        params, extras = initial(experiment, sharding.of((stage.abstract["params"], stage.abstract["extras"])))
    else:
        params, extras = current["params"], current["extras"]
    for part in stage.phase.start:
        whole = load_pretrained(params | {"extras": extras}, pretrained_params(part, progress), part.parts)
        params, extras = {k: v for k, v in whole.items() if k != "extras"}, whole.get("extras", {})
    if stage.phase.begin is not None:
        params, extras = jax.jit(stage.phase.begin)(params, extras)
    fresh = stage.create(params, extras)
    if current is None:
        return fresh
    average = current["ema"] if experiment.train.ema and not stage.phase.start else fresh["ema"]
    return fresh | {"step": current["step"], "skipped": current["skipped"], "ema": average}


def load_pretrained(params: Params, donor: Params, parts: tuple[tuple[str, str], ...]) -> Params:
    """`params` with the donor's leaves at the named prefixes. Raises ConfigError where a path or shape has no match.

    Extras, such as a trained codebook, are under "extras/"; only a prefix that begins with it matches them.
    """
    flat, given = flatten(params), flatten(donor)
    for there, here in parts:
        known = {p: v for p, v in given.items() if p.startswith("extras/") == there.startswith("extras/")}
        moved = {here + p[len(there) :]: v for p, v in known.items() if p.startswith(there)}
        if not moved:
            raise ConfigError(f"pretrained part {there!r} matches no parameter there")
        for path, value in moved.items():
            if path not in flat or flat[path].shape != value.shape:
                found = list(flat[path].shape) if path in flat else "absent"
                raise ConfigError(
                    f"pretrained {path} has shape {list(value.shape)}, here it is {found}: give both experiments the same sizes"
                )
            flat[path] = jnp.asarray(value)
    return _like(params, flat)


def _like(tree: Mapping[str, Any], flat: Mapping[str, Any], prefix: str = "") -> Params:
    """The leaves of `flat` in the structure of `tree`, which may have dicts without leaves."""
    return {k: _like(v, flat, f"{prefix}{k}/") if isinstance(v, Mapping) else flat[prefix + k] for k, v in tree.items()}


def pretrained_params(part: Pretrained, progress: bool = True) -> Params:
    """Params of a pretrained part, its extras under "extras". Raises DataError for a file that cannot be used."""
    if not part.file:
        donor = pretrained(part.experiment, progress)
        return donor.params | {"extras": donor.extras}
    with paths.fetched(paths.at(part.file)) as path:
        if path.suffix == ".safetensors" and (safetensors.is_ours(path) or not path.exists()):
            params, extras = safetensors.read_parameters(path)
        else:
            found = foreign.read_foreign(path) if path.exists() else None
            if found is None:
                raise DataError(f"{path} holds no weights that a system here recognises")
            _, params, extras = found
    return params | {"extras": extras}


def pretrained(experiment: Experiment, progress: bool = True) -> Model:
    """The trained model of `experiment`, from the cache by its fingerprint, or trained now and kept there; one process trains, others wait."""
    folder = paths.make_cache("pretrained") / fingerprint(experiment)
    return train(experiment, folder, progress=progress, say=lambda _: None, wait=True)


__all__ = [
    "Context",
    "abstract_state",
    "initial",
    "load_pretrained",
    "make_phase_state",
    "pretrained",
    "train",
    "versions",
]
