"""What holds for every system, over one compiled step of its tiny config: these tests are the contract."""

import re

import jax
import numpy as np
import pytest
from generic import shared
from generic.shared import assert_close, equal, every_system, of_the_panel, take

from mmrep.config import flatten
from mmrep.data import pipeline
from mmrep.errors import ConfigError
from mmrep.modality import EOS, FIRST_PIECE, PAD
from mmrep.training import loop
from mmrep.training.checkpoint import Checkpoints
from mmrep.training.state import split

pytestmark = pytest.mark.step
DRAWS = 12


@every_system
def test_one_step_moves_what_is_trainable_and_nothing_else(slug):
    m = shared.one_step(slug)
    assert all(np.isfinite(v) for v in m.metrics.values()), m.metrics
    assert m.metrics["skips"] == 0
    before, state = flatten(m.before["params"]), m.after
    learnt, frozen = split(m.before["params"], m.phase.trainable)
    for i in range(1, DRAWS):  # a random mask may leave a modality out of one step
        after = flatten(state["params"])
        unmoved = [p for p in learnt if np.array_equal(before[p], after[p])]
        if not unmoved:
            break
        state, _ = m.step(state, m.batches[i % 2])
    assert not unmoved, f"trainable but unmoved (no gradient reaches them): {unmoved}"
    assert all(np.array_equal(before[p], after[p]) for p in frozen)


@every_system
def test_the_loss_of_guessing_is_that_of_equal_logits(slug):
    m = shared.one_step(slug)
    chance = getattr(m.config.system, "chance_loss", None)
    if chance is None or chance(m.config.data.batch_size) is None:
        pytest.skip("no loss of guessing")
    zeros = jax.tree.map(np.zeros_like, m.before["params"])
    loss, _ = jax.jit(m.system.loss)(zeros, m.before["extras"], m.batch, jax.random.key(0))
    np.testing.assert_allclose(loss, chance(m.config.data.batch_size), rtol=0.02)


@every_system
def test_a_step_is_pure(slug):
    m = shared.one_step(slug)
    given = {k: v.copy() for k, v in m.batch.items()}
    again, metrics = m.step(m.before, m.batch)
    assert equal(again, m.after) and metrics == m.metrics
    assert equal(given, dict(m.batch)), "the batch was changed in place"


@every_system
def test_infer_has_its_fixed_meanings(slug):
    m = shared.one_step(slug)
    rows = len(next(iter(m.batch.values())))
    known = {x.name for x in m.config.data.modalities}
    for name, found in m.infer(m.batch).items():
        base, _, what = name.rpartition("_")
        if name in known or name == "fused":
            assert found.shape[:1] == (rows,) and found.ndim == 2 and found.dtype == np.float32, name
        elif name.startswith("score"):
            assert found.shape == (rows,) and found.dtype == np.float32, name
        elif base in known | {"fused"} and what == "tokens":
            tokens, valid = found
            assert tokens.ndim == 3 and valid.shape == tokens.shape[:2] and len(valid) == rows, name
            assert tokens.dtype == np.float32 and valid.dtype == bool, name
        elif base in known | {"fused"} and what == "layers":
            assert all(x.ndim == 2 and len(x) == rows for x in found.values()), name


@every_system
def test_infer_rows_are_independent_of_each_other(slug):
    m = shared.one_step(slug)
    order = np.random.default_rng(0).permutation(len(next(iter(m.batch.values()))))
    two = {k: np.concatenate([v[order[:2]]] * (len(v) // 2)) for k, v in m.batch.items()}
    whole, permuted, repeated = m.infer(m.batch), m.infer(take(m.batch, order)), m.infer(two)
    for name in whole:
        assert_close(take(whole[name], order), permuted[name], name)
        assert_close(take(whole[name], order[:2]), take(repeated[name], slice(2)), name)


@every_system
def test_a_batch_of_one_row(slug):
    """Its loss and gradients are finite, or one sentence says that the loss needs more rows; infer gives the row's own result."""
    m = shared.one_step(slug)
    try:
        value, found = m.smallest()
    except ConfigError as error:
        assert "\n" not in str(error) and re.search(r"batch|row", str(error)), error
        return
    bad = [] if value is None else [p for p, g in value[1].items() if not np.isfinite(g).all()]
    assert value is None or np.isfinite(value[0]), value[0]
    assert not bad, f"gradients that are not finite: {bad}"
    whole = m.infer(m.batch)
    for name in found:
        assert_close(take(whole[name], slice(1)), found[name], name)


@every_system
def test_infer_ignores_padding(slug):
    m = shared.one_step(slug)
    texts = [x for x in m.config.data.modalities if x.kind in ("text", "texts")]
    sounds = [x for x in m.config.data.modalities if x.kind == "audio"]
    if sounds:
        other = dict(m.batch)
        for x in sounds:
            hidden = np.arange(x.shape[0]) >= m.batch[f"{x.name}_length"][:, None]
            other[x.name] = np.where(hidden, 0.3, m.batch[x.name]).astype(np.float32)
        whole, changed = m.infer(m.batch), m.infer(other)
        for name in whole:
            assert_close(whole[name], changed[name], name)
    if texts:
        padded = m.batch | {x.name: half_text(m.batch[x.name]) for x in texts}
        cut = padded | {x.name: padded[x.name][..., : x.shape[-1] // 2] for x in texts}
        others = {k: v for k, v in m.batch.items() if k not in {x.name for x in texts}}
        names = [n for n in m.system.infer if not n.endswith("_layers") and not needs_only(m, n, others)]
        whole, shorter = m.infer(padded), m.infer(cut, names)
        for name in names:
            if name.endswith("_tokens"):
                (tokens, valid), (fewer, kept) = whole[name], shorter[name]
                assert valid.sum() == kept.sum(), name
                assert_close(tokens[valid], fewer[kept], name)
            elif jax.tree.map(np.shape, whole[name]) == jax.tree.map(np.shape, shorter[name]):
                assert_close(whole[name], shorter[name], name)
    if not (texts or sounds):
        pytest.skip("no modality of varying length")


def half_text(ids: np.ndarray) -> np.ndarray:
    """Texts that end in the first half of their length: longer ones are cut there, and end with EOS."""
    half = ids.shape[-1] // 2
    short = ids.copy()
    short[..., half:] = PAD
    short[(ids[..., half:] != PAD).any(-1), half - 1] = EOS
    return short


def needs_only(m, name, batch) -> bool:
    """Whether infer[name] can be traced on a batch that holds some entries only."""
    try:
        m.shapes(name, batch)
    except Exception:
        return False
    return True


@every_system
def test_infer_of_one_modality_needs_and_uses_no_other(slug):
    m = shared.one_step(slug)
    whole = m.infer(m.batch)
    names = [x.name for x in m.config.data.modalities if x.name in m.system.infer]
    for name in names:
        own = {k: v for k, v in m.batch.items() if k in (name, f"{name}_length")}
        assert m.shapes(name, own).shape == whole[name].shape
        others = {k for x in names for k in (x, f"{x}_length")} - set(own)
        other = {k: np.roll(v, 1, axis=0) if k in others else v for k, v in m.batch.items()}
        assert_close(whole[name], m.infer(other)[name], name)


@every_system
def test_every_id_of_a_vocabulary_has_its_own_embedding(slug):
    """A table smaller than the vocabulary would give the largest ids one row, without an error: JAX clips indices."""
    m = shared.one_step(slug)
    texts = [x for x in m.config.data.modalities if x.kind in ("text", "texts")]
    if not texts:
        pytest.skip("no text")
    for x in texts:
        ids = m.batch[x.name]
        for draw in range(DRAWS):  # of rows, which may lack the text, and of random masks, which may leave it out
            rows = np.arange(len(ids)) % 2 == draw % 2
            words = (ids >= FIRST_PIECE) & rows.reshape(-1, *[1] * (ids.ndim - 1))
            if x.kind == "texts":  # the first of the group: equal candidates would tie, whatever their word
                words = words & (np.arange(ids.shape[1]) == 0)[:, None]
            state = m.before | {"step": np.int32(draw)}
            batches = (m.batch | {x.name: np.where(words, x.vocab - i, ids).astype(np.int32)} for i in (1, 2))
            losses = [m.step(state, batch)[1]["loss"] for batch in batches]
            assert np.isfinite(losses).all(), (x.name, losses)
            if losses[0] != losses[1]:
                break
        assert losses[0] != losses[1] or not in_the_loss(m, x.name), (
            f"{x.name}: ids {x.vocab - 1} and {x.vocab - 2} give the same loss"
        )


def in_the_loss(m, name) -> bool:
    """Whether the loss of this phase takes the batch entry; that of another phase may (records of a client that trains alone)."""
    given = m.before["params"], m.before["extras"], dict(m.batch)
    jaxpr = jax.make_jaxpr(lambda *x: m.system.loss(*x, jax.random.key(0))[0])(*given).jaxpr
    entry = len(jax.tree.leaves(given[:2])) + sorted(m.batch).index(name)
    return any(v is jaxpr.invars[entry] for e in jaxpr.eqns for v in e.invars)


@every_system
def test_a_restored_state_takes_the_same_step_without_compiling(slug, tmp_path):
    m = shared.one_step(slug)
    straight, _ = m.step(m.after, m.batches[1])
    with Checkpoints(tmp_path / "checkpoints") as saves:
        saves.save(1, m.after)
    with Checkpoints(tmp_path / "checkpoints") as saves:
        done, restored = saves.newest(lambda step: m.stage.abstract)
    records = pipeline.open_split(m.config.data, m.tokenize, "train", m.phase.data)
    batch = next(pipeline.train_batches(records, m.config.data.batch_size, 0, start=done))
    assert equal(restored, m.after) and equal(batch, m.batches[1])
    resumed, _ = m.step(restored, batch)
    assert equal(resumed, straight)
    assert m.stage.step._cache_size() == 1


@pytest.mark.slow
@of_the_panel
def test_training_resumes_bit_for_bit(slug, tmp_path):
    config = shared.tiny(slug)
    straight = loop.train(config, progress=False)
    loop.train(config, tmp_path / "run", progress=False, stop=2)
    resumed = loop.train(config, tmp_path / "run", progress=False, say=lambda _: None)
    assert equal(straight.params, resumed.params) and equal(straight.extras, resumed.extras)
    assert straight.compilations == 1 and resumed.compilations == 1
