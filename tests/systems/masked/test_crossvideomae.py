"""CrossVideoMAE's targets against VideoMAE's of transformers, its contrast by hand, and its traps."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.masked import crossvideomae as configs
from mmrep import api, modality
from mmrep.config import Data, Phase
from mmrep.data.clips.moments import FrameData
from mmrep.data.tables import Table
from mmrep.errors import ConfigError
from mmrep.losses.contrastive import nt_xent
from mmrep.losses.masked import over_targets, patch_mse
from mmrep.masking.budgets import from_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.heads import l2_normalise
from mmrep.systems.masked.crossvideomae.model import TubeDecoder, prototype, tube_patches, tube_targets, visible_tokens

GOLDEN = {k: v for k, v in np.load(Path(__file__).parents[2] / "golden" / "crossvideomae.npz").items()}
TINY = configs.get_config("tiny")


def batch(n=4, seed=0):
    return modality.example(TINY.data.modalities, n, seed)


def test_tubes_targets_and_loss_are_videomaes():
    patches = tube_patches(jnp.asarray(GOLDEN["pixels"]).transpose(0, 1, 3, 4, 2), 8, 2)
    # The convolution's weight [out, channel, frame, row, column] in the order of a tube's pixels.
    weight = GOLDEN["weight"].transpose(3, 4, 2, 1, 0).reshape(-1, 16)
    np.testing.assert_allclose(patches.reshape(2, 8, -1) @ weight + GOLDEN["bias"], GOLDEN["embedded"], atol=1e-5)
    frames = jnp.asarray(GOLDEN["frames"]).transpose(0, 1, 3, 4, 2)
    # Theirs has the pixels in the order (frame, row, column), channels last, as ours.
    logits = GOLDEN["logits"].reshape(2, 6, 2, 8, 8, 3).transpose(0, 1, 3, 4, 2, 5).reshape(2, 6, -1)
    predicted = np.zeros((2, 8, 384), np.float32)
    predicted[GOLDEN["mask"]] = logits.reshape(12, -1)
    found = over_targets(patch_mse(jnp.asarray(predicted), tube_targets(frames, 8, 2)), jnp.asarray(GOLDEN["mask"]))
    np.testing.assert_allclose(found, GOLDEN["loss"], rtol=5e-4)  # they add 1e-6 to the deviation, not to the variance
    assert not np.any(tube_targets(jnp.ones((1, 2, 8, 8, 3)), 8, 2)), "a constant tube has variance 0"


def test_contrast_by_hand():
    x = jnp.eye(4)[:2]
    np.testing.assert_allclose(nt_xent(x[:1], x[1:], 10.0), 0.0, atol=1e-6)
    np.testing.assert_allclose(nt_xent(x, x, 10.0), -np.log(np.exp(10) / (np.exp(10) + 2)), atol=1e-6)
    np.testing.assert_allclose(prototype(x, x), x, atol=1e-6)
    np.testing.assert_allclose(prototype(x[:1], x[1:]), np.array([[1, 1, 0, 0]]) / np.sqrt(2), atol=1e-6)


def test_counts_of_visible_tokens():
    assert visible_tokens(256, 0.9) == 25 and visible_tokens(1568, 0.95) == 78 and visible_tokens(10, 0.9) == 1
    system = replace(TINY.system, mask_video=0.99).build()
    with pytest.raises(ConfigError, match="none is visible"):
        system.init(jax.random.key(0), batch())


def test_decoder_puts_tokens_at_their_places():
    decoder = TubeDecoder(TransformerConfig(width=8, depth=1, heads=2), 5)
    mask = np.zeros((1, 8), bool)
    mask[0, [1, 6]] = True
    at, tokens = from_mask(mask), jax.random.normal(jax.random.key(0), (1, 2, 6))
    params = decoder.init(jax.random.key(1), tokens, at, 2, (2, 2))
    found = decoder.apply(params, tokens, at, 2, (2, 2))
    assert found.shape == (1, 8, 5)
    # Masked tokens differ by their positions in space and time alone; all of them do.
    assert len(np.unique(np.round(found[0], 5), axis=0)) == 8
    order = at._replace(
        ids_keep=at.ids_keep[:, ::-1], ids_restore=jnp.where(at.ids_restore < 2, 1 - at.ids_restore, at.ids_restore)
    )
    np.testing.assert_allclose(decoder.apply(params, tokens[:, ::-1], order, 2, (2, 2)), found, atol=1e-5)


def test_frozen_branch_has_no_gradient_and_the_terms_add_up():
    system = replace(TINY.system, train_image=False, reconstruct_view=True).build()
    b = batch()
    params, _ = system.init(jax.random.key(0), b)
    assert "frame_decoder" not in params
    (value, (_, terms)), grads = jax.jit(
        jax.value_and_grad(lambda p: system.loss(p, {}, b, jax.random.key(1)), has_aux=True)
    )(params)  # fmt: skip
    assert not any(np.any(g) for g in jax.tree.leaves(grads["frames"])) and np.any(grads["frame_head"]["out"]["kernel"])
    np.testing.assert_allclose(value, sum(terms.values()), rtol=1e-6)
    plain = replace(TINY.system, train_image=False, intra=0.0, cross=0.0).build()
    params, _ = plain.init(jax.random.key(0), b)
    assert set(params) == {"video", "frames", "decoder"} and set(plain.infer) == {"video", "video_layers", "frames"}


def test_views_have_one_colour_change_each_for_all_frames():
    view = configs.parts(4, 16)[0].augment[0]
    still = np.tile(np.random.default_rng(0).random((1, 16, 16, 3), np.float32), (4, 1, 1, 1))
    changed = [view(np.random.default_rng(seed), still) for seed in (1, 2)]
    np.testing.assert_allclose(changed[0], np.broadcast_to(changed[0][:1], still.shape), atol=1e-6)
    assert np.abs(changed[0] - changed[1]).max() > 0.05
    kinds = [m.name for m in configs.get_config("small").data.modalities]
    assert kinds == ["video", "view", "frames"] and {m.source for m in TINY.data.modalities} == {"video"}


def test_frames_with_the_words_for_their_shapes():
    source = FrameData(configs.clips(20))
    columns = source.open("train").columns
    assert columns["image"].shape == (20, 16, 16, 3) and set(columns["text"]) <= set(source.texts("train"))
    donor = configs.get_config("small").phases[0].start[0].experiment
    assert donor.system.image == configs.get_config("small").system.image


def test_video_embedding_uses_all_tokens_and_unit_vectors_are_shared():
    system, b = TINY.system.build(), batch()
    params, extras = system.init(jax.random.key(0), b)
    found = {name: jax.jit(system.infer[name])(params, extras, b) for name in ("video", "shared_video", "shared_frame")}
    changed = jax.jit(system.infer["video"])(params, extras, b | {"video": np.roll(b["video"], 1, 2)})
    assert np.abs(changed - found["video"]).max() > 1e-4
    for name in ("shared_video", "shared_frame"):
        np.testing.assert_allclose(found[name], l2_normalise(found[name]), atol=1e-6)


def test_on_eight_rows_of_a_users_table(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["video,kind,split"]
    for i in range(8):
        np.save(tmp_path / f"{i}.npy", rng.integers(0, 255, (4, 16, 16, 3)).astype(np.uint8))
        lines.append(f"{i}.npy,{'ab'[i % 2]},{'test' if i > 5 else 'val' if i > 4 else 'train'}")
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    source = Table(tmp_path / "clips.csv", image=None, video="video", text=None, extra=("kind",))
    data = Data(source, TINY.data.modalities, batch_size=4, eval_batch_size=4)
    probe = replace(configs.EVALS[0], label="kind")
    found = api.evaluate(api.create(replace(TINY, data=data, phases=(Phase(steps=1),), evals=(probe,))))
    assert 0 <= found["shape accuracy"] <= 1


def test_errors():
    for changes, match in (
        ({"temperature": 0.0}, "must be positive"), ({"reconstruct": 0.0, "intra": 0.0, "cross": 0.0}, "nor all 0"), ({"mask_image": 1.0}, "hidden tokens"),
        ({"video": replace(TINY.system.video, attention="frame", tube=1)}, "must be joint"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            replace(TINY.system, **changes).build()
