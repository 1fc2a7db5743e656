"""UCASR's losses, CCA and VGG against the authors' numbers; phases, bands, synthetic music."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from configs.contrastive import audio_sheet as configs
from mmrep import api, modality
from mmrep.config import Data
from mmrep.data.music import FREQUENCIES, SLOTS, Equalise, MusicData, Shift, Stain, melody
from mmrep.data.scenes.world import keys
from mmrep.data.tables import Table
from mmrep.errors import ConfigError
from mmrep.evals import retrieval
from mmrep.model import Model
from mmrep.systems.contrastive.audio_sheet import Config, Refine, evals, model
from mmrep.systems.contrastive.audio_sheet.model import Bands, Vgg, cca, ranking_loss, two_views_loss

GOLDEN = {k: v for k, v in np.load(Path(__file__).parents[2] / "golden" / "audio_sheet.npz").items()}
TINY = configs.get_config("tiny")


def of(*names):
    return [jnp.asarray(GOLDEN[n], jnp.float32) for n in names]


def test_losses_are_the_authors():
    np.testing.assert_allclose(two_views_loss(tuple(of("x", "y")), 0.6), GOLDEN["nt"], rtol=1e-5)
    np.testing.assert_allclose(ranking_loss(*of("x", "y"), 0.6), GOLDEN["triplet"], rtol=1e-5)
    same = jnp.tile(jnp.eye(3)[:1], (4, 1))
    np.testing.assert_allclose(two_views_loss((same, same), 0.5), np.log(7), rtol=1e-5)


def test_cca_is_the_authors():
    a, b, t1, t2 = of("a", "b", "t1", "t2")
    found, correlations = jax.jit(cca)(a, b)
    # Theirs rise, ours fall; they add 1e-3 to the squares.
    np.testing.assert_allclose(correlations[::-1], np.sqrt(GOLDEN["corr"] ** 2 - 1e-3), atol=2e-3)
    for x, y, u, v in ((a, b, "cca_a", "cca_b"), (t1, t2, "e1", "e2")):
        ours = (x - found.x_mean) @ found.u, (y - found.y_mean) @ found.v
        theirs = GOLDEN[u], GOLDEN[v]
        np.testing.assert_allclose(ours[0] @ ours[1].T, theirs[0] @ theirs[1].T, atol=1e-3)
        np.testing.assert_allclose(np.abs(ours[0][:, ::-1]), np.abs(theirs[0]), atol=1e-3)
    # A side with itself: all correlations 1, both outputs equal. Gradients are finite, also through equal correlations.
    (same, ones), grad = cca(a, a), jax.grad(lambda a: ranking_loss(*cca(a, b)[0](a, b)))(a)
    np.testing.assert_allclose(ones, 1, atol=5e-3)
    np.testing.assert_allclose(*same(a, a), atol=1e-3)
    assert np.isfinite(grad).all()
    assert cca(a[:4], b[:4])[1].min() < 1 and cca(a[:4], b[:4])[1][0] > 0.99, "few pairs correlate, whatever they are"


def test_vgg_is_the_authors_with_its_norms_folded():
    params = {}

    def folded(name, ours):
        scale = GOLDEN[f"{name}.weight"] / np.sqrt(GOLDEN[f"{name}.running_var"] + 1e-5)
        params[f"{ours}_scale"], params[f"{ours}_bias"] = (
            scale,
            GOLDEN[f"{name}.bias"] - GOLDEN[f"{name}.running_mean"] * scale,
        )

    for i in range(4):
        for j in (1, 2):
            params[f"block{i}_conv{j}"] = {"kernel": GOLDEN[f"vgg.block{i + 1}.conv{j}.weight"].transpose(2, 3, 1, 0)}
            folded(f"vgg.block{i + 1}.bn{j}", f"block{i}_norm{j}")
    params["conv"] = {"kernel": GOLDEN["vgg.conv.weight"].transpose(2, 3, 1, 0)}
    folded("vgg.bn", "norm")
    x = jnp.asarray(GOLDEN["im"].transpose(0, 2, 3, 1))
    found = Vgg((4, 8, 16, 16), norm="affine").apply({"params": params}, x)
    # They flatten channels first.
    np.testing.assert_allclose(
        found.reshape(2, 1, 2, 32).transpose(0, 3, 1, 2).reshape(2, -1), GOLDEN["vgg"], atol=1e-4
    )


def test_mean_reciprocal_rank_is_the_authors():
    x, y = (GOLDEN[k] / np.linalg.norm(GOLDEN[k], axis=1, keepdims=True) for k in ("mx", "my"))
    np.testing.assert_allclose(np.mean(1 / retrieval.ranks(x, y, np.arange(9))), GOLDEN["mrr"], rtol=1e-6)


def test_bands():
    assert Bands().filters().shape == (1025, 92)
    np.testing.assert_allclose(Bands().filters().sum(0), 1, rtol=1e-5)
    t = np.arange(6400) / 4000
    found = jax.jit(configs.LOW)(
        jnp.asarray(np.stack([np.sin(2 * np.pi * f * t) for f in (300, 600, 1200)]), jnp.float32)
    )
    at = np.asarray(found)[:, :, 16, 0].argmax(1)
    assert found.shape[2] == 32 and at[0] < at[1] < at[2] and abs((at[2] - at[1]) - 16) <= 1
    assert not np.any(configs.LOW(jnp.zeros((1, 6400)))), "silence is 0 everywhere"
    with pytest.raises(ConfigError, match="low < high"):
        Bands(rate=8000)


def test_music():
    data = MusicData(n_train=40, n_test=40, snippets=4)
    columns = data.columns("test", np.arange(40))
    assert columns["sheet"].shape == (40, 32, 48, 1) and columns["audio"].shape == (40, data.samples)
    np.testing.assert_array_equal(columns["real"], np.arange(40) >= 20)
    np.testing.assert_array_equal(columns["piece"], np.arange(40) // 4)
    assert columns["sheet"][:20].max() == 255 and np.median(columns["sheet"][:20]) == 255, "paper is white"
    np.testing.assert_array_equal(data.columns("test", np.arange(8, 16))["audio"], columns["audio"][8:16])
    apart = replace(data, aligned=False)
    np.testing.assert_array_equal(apart.columns("test", np.arange(4))["sheet"], columns["sheet"][:4])
    assert (apart.columns("test", np.arange(4))["audio"] != columns["audio"][:4]).any()
    # The strongest frequency of a slot is its note, or a harmonic of it.
    pitch, begins = melody(keys(data.seed, np.arange(20) + (1 << 30)))
    n, at = data.samples // SLOTS, np.flatnonzero(begins[0])
    for s in at:
        spectrum = np.abs(np.fft.rfft(columns["audio"][0, s * n : (s + 1) * n] * np.hanning(n), 16 * n))
        ratio = spectrum.argmax() * data.rate / (16 * n) / FREQUENCIES[pitch[0, s]]
        assert abs(ratio - round(ratio)) < 0.03 and round(ratio) in (1, 2, 3, 4)
    with pytest.raises(ConfigError, match="snippets 0"):
        MusicData(snippets=0)


def test_shifted_waves_have_zeros_where_nothing_is_left():
    wave = np.ones(100, np.float32)
    moved = [Shift(0.3)(np.random.default_rng(seed), wave) for seed in range(6)]
    assert {float(np.abs(m).max()) for m in moved} == {1.0} and len({int((m == 0).sum()) for m in moved}) > 1
    assert all((m == 0).sum() <= 30 for m in moved)


def test_recordings_differ_in_loudness_and_scans_in_shade():
    data = MusicData(n_test=80)
    clean, real = (data.columns("test", np.arange(n, n + 40)) for n in (0, 40))
    spread = [[np.std(c["audio"].std(1)), np.std(c["sheet"].mean((1, 2, 3)))] for c in (clean, real)]
    assert spread[1][0] > 1.5 * spread[0][0] and spread[1][1] > 3 * spread[0][1]
    assert np.abs(real["audio"]).max() <= 1


def test_equaliser_and_stains():
    t = np.arange(4000) / 4000
    tones = sum(np.sin(2 * np.pi * f * t) for f in (100, 400, 1600)).astype(np.float32) / 4
    of = lambda wave: np.abs(np.fft.rfft(wave))[[100, 400, 1600]]  # noqa: E731
    found = [of(Equalise(6.0, 0.0)(np.random.default_rng(seed), tones)) / of(tones) for seed in range(8)]
    assert np.min(found) > 0.49 and np.max(found) < 2.01 and np.std(np.log(found), axis=1).max() > 0.2
    silent = [of(Equalise(0.0, 1.0)(np.random.default_rng(seed), tones)) for seed in range(40)]
    assert 5 < sum(x.min() < 1e-2 for x in silent) < 30 and not np.any(Equalise()(np.random.default_rng(0), 0 * tones))
    page = np.ones((8, 12, 1), np.float32)
    stained = [Stain(0.2)(np.random.default_rng(seed), page) for seed in range(6)]
    assert all(x.min() >= 0.6 and x.max() <= 1 and x.shape == page.shape for x in stained)
    assert max(np.abs(np.diff(x, axis=1)).max() for x in stained) < 0.25, "slow"


def test_objectives_and_refinement():
    batch = modality.example(TINY.data.modalities, 8)
    system = TINY.system.build()
    params, extras = system.init(jax.random.key(0), batch)
    np.testing.assert_array_equal(extras["u"], np.eye(2))
    value, (found, _) = jax.jit(system.loss)(params, extras, batch, jax.random.key(1))
    assert np.isfinite(value) and np.abs(found["u"] - np.eye(2)).max() > 0.1
    mixed, alone = (replace(TINY.system, objective=o).build() for o in ("mixed", "pretrain"))
    # Before training all vectors are alike: log(2B - 1), and twice that many rows where both sides are mixed.
    values = [float(jax.jit(s.loss)(params, extras, batch, jax.random.key(1))[0]) for s in (mixed, alone)]
    assert values[0] < np.log(31) + 1 and values[1] < 2 * np.log(15) + 2
    grads = jax.jit(jax.grad(lambda p: alone.loss(p, extras, batch, jax.random.key(1))[0]))(params)
    assert not np.any(grads["sheet"]["align"]["kernel"]) and np.any(grads["audio"]["encoder"]["conv"]["kernel"])
    with pytest.raises(ConfigError, match="data.batch_size is 2"):
        configs.experiment(TINY.data.source, TINY.system, steps=1, batch=2)
    trained = api.create(TINY)
    split = trained.split("train")
    context = type("Context", (), {"split": split, "system": trained.system})()
    _, refined = Refine()(trained.params, trained.extras, context)
    with pytest.raises(ConfigError, match="training pairs is 2"):
        Refine(pairs=2)(trained.params, trained.extras, context)
    rows = {s: trained.embed_split(f"{s}_before", "train") for s in ("sheet", "audio")}
    expected = model.cca(*(jnp.asarray(rows[s]) for s in ("sheet", "audio")))[0]
    np.testing.assert_allclose(refined["x_mean"], expected.x_mean, atol=1e-5)
    np.testing.assert_allclose(np.abs(refined["u"]), np.abs(expected.u), rtol=1e-2, atol=1e-2)


class Fake(Model):
    def __init__(self, audio, sheet, piece):
        self.sets, self.piece = {"audio": audio, "sheet": sheet}, piece

    def embed_split(self, name, split="test"):
        return self.sets[name]

    def column(self, name, split="test"):
        return self.piece if name == "piece" else np.arange(len(self.piece)) % 2

    def split(self, name):
        return self.piece


def test_pieces_by_votes():
    sheet = np.eye(6)
    audio = np.eye(6)[[0, 1, 4, 3, 4, 0]]  # piece 0 has two right votes of three, piece 1 too
    fake = Fake(audio, sheet, np.array([0, 0, 0, 1, 1, 1]))
    assert evals.PieceIdentification().run(fake) == {"piece accuracy": 1.0, "piece chance": 0.5}
    found = evals.Snippets("real").run(fake)
    assert found["audio->sheet R@1 [0]"] == pytest.approx(2 / 3) and 0 < found["MRR [1]"] <= 1
    assert found["chance MRR [1]"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3) and found["chance R@1 [0]"] == 1 / 3


def test_on_eight_rows_of_a_users_table(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["sheet,audio,split"]
    for i in range(16):
        Image.fromarray(rng.integers(0, 255, (40, 60)).astype(np.uint8)).save(tmp_path / f"{i}.png")
        wavfile.write(tmp_path / f"{i}.wav", 4000, (rng.normal(size=6400) * 3000).astype(np.int16))
        lines.append(f"{i}.png,{i}.wav,{'test' if i % 2 else 'train'}")
    (tmp_path / "snippets.csv").write_text("\n".join(lines))
    source = Table(tmp_path / "snippets.csv", image="sheet", audio="audio", text=None, rate=4000)
    data = Data(source, configs.views(4000, 6400, table=True), batch_size=8, eval_batch_size=8)
    found = api.evaluate(api.create(replace(TINY, data=data, phases=TINY.phases[1:], evals=(evals.Snippets(),))))
    assert 0 < found["MRR"] <= 1


def test_errors():
    for changes, match in (
        ({"sheet": (6,)}, "4 divides"),
        ({"ridge": 0.0}, "must be positive"),
        ({"sheet_temperature": 0.0}, "temperatures"),
    ):
        with pytest.raises(ConfigError, match=match):
            replace(Config(), **changes).build()
