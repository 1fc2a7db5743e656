"""Strips of frames: bars stand at their time, and the panels of moments and highlights draw what the system predicts beside the truth."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmrep import api, modality
from mmrep.config import Data, Experiment, Phase, Tokenizer
from mmrep.data.clips import ClipData, ClipSpec
from mmrep.errors import ConfigError
from mmrep.evals.attention import FrameAttention
from mmrep.evals.temporal import Highlights, Moments
from mmrep.report import page, strips
from mmrep.system import System

PREDICTED = ((0.25, 0.5), (0.0, 1.0))


def bars(ax):
    return [(round(p.get_x(), 4), round(p.get_width(), 4)) for p in ax.patches]


def lanes(figure):
    """{label: axes} of lanes, and the axes of frames."""
    named = {ax.texts[0].get_text(): ax for ax in figure.axes if ax.texts}
    return named, [ax for ax in figure.axes if ax.images]


def test_bars_stand_at_their_time():
    shown = [np.full((4, 6, 3), 50 * i, np.uint8) for i in range(4)]
    strip = strips.Strip("a clip", shown, {"attention": [0.0, 1.0, 0.5, 0.0]}, {"truth": [(0.25, 0.5), (0.75, 1.0)]})
    named, frames = lanes(strips.draw([strip]))
    assert bars(named["truth"]) == [(0.25, 0.25), (0.75, 0.25)]
    centres = [x + w / 2 for x, w in bars(named["attention"])]
    np.testing.assert_allclose(centres, [0.125, 0.375, 0.625, 0.875], atol=1e-3)
    assert [p.get_height() for p in named["attention"].patches] == [0.0, 1.0, 0.5, 0.0]
    (ax,) = frames
    assert [int(i.get_array()[0, 0, 0]) for i in ax.images] == [0, 50, 100, 150]
    assert all(a.get_xlim() == (0.0, 1.0) for a in (ax, *named.values())), "lanes and frames share the time"


def test_curves_of_one_name_share_their_scale_and_strips_do_not_overlap():
    shown = [strips.Strip(f"clip {k}", curves={"attention": np.full(3, k + 1.0)}) for k in range(5)]
    figure = strips.draw(shown)
    assert {ax.get_ylim()[1] for ax in figure.axes} == {5.0}
    boxes = [ax.get_position() for ax in figure.axes]
    assert all(0 <= b.x0 < b.x1 <= 1 and 0 <= b.y0 < b.y1 <= 1 for b in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_wrong_lanes_are_one_sentence():
    with pytest.raises(ConfigError, match=r"curve 'attention' has shape \(2, 2\)"):
        strips.Strip("x", curves={"attention": np.zeros((2, 2))})
    with pytest.raises(ConfigError, match=r"spans 'truth' have shape \(2,\)"):
        strips.Strip("x", spans={"truth": (0.0, 1.0)})


@pytest.fixture(scope="module")
def model():
    """Of clips with captions, a system whose predictions are constants."""

    def spans(params, extras, batch):
        return jnp.tile(jnp.asarray(PREDICTED), (len(batch["video"]), 1, 1))

    def saliency(params, extras, batch):
        return jnp.tile(jnp.arange(6.0), (len(batch["video"]), 1))

    functions = {"spans": spans, "saliency": saliency, "attention": saliency, "heard": lambda *x: spans(*x)[..., 0]}
    system = System(lambda rng, batch: ({"w": jnp.zeros(1)}, {}), None, functions)
    source = ClipData(16, 8, 8, spec=ClipSpec(6, 3), sensors=("video", "caption", "spans", "saliency"), size=8)
    parts = modality.video("video", 4, 8), modality.text("text", 12, 64, field="caption")
    data = Data(source, parts, Tokenizer(64, "word"), batch_size=4, eval_batch_size=4)
    return api.create(Experiment(system, data, (Phase(steps=1),)))


def test_moments_show_truth_and_prediction(model):
    panel = strips.moments(model, Moments(truth="spans", name="any"))
    named, frames = lanes(panel.figure)
    assert panel.title == "Moments, any" and {*named} == {"truth", "predicted", "second"}
    assert bars(named["predicted"]) == [(0.25, 0.25)] and bars(named["second"]) == [(0.0, 1.0)]
    last = np.asarray(model.column("spans", "test")[-1])
    np.testing.assert_allclose(bars(named["truth"]), np.stack([last[:, 0], last[:, 1] - last[:, 0]], 1), atol=1e-3)
    assert len(frames) == strips.SHOWN and all(len(ax.images) == 4 for ax in frames), (
        "the frames that the model is given"
    )
    titles = [t.get_text() for t in panel.figure.texts]
    assert titles[0].startswith(str(model.column("caption", "test")[0])) and "IoU" in titles[0]


def test_highlights_show_truth_and_prediction(model):
    named, _ = lanes(strips.highlights(model, Highlights()).figure)
    assert [p.get_height() for p in named["predicted"].patches] == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose([p.get_height() for p in named["truth"].patches], model.column("saliency", "test")[-1])


def test_attention_stands_above_the_event_that_the_text_tells(model):
    named, _ = lanes(strips.attention(model, FrameAttention(sound="heard")).figure)
    assert [*named] == ["attention", "sound", "told"]
    assert [p.get_height() for p in named["attention"].patches] == [0, 1, 2, 3, 4, 5]
    events, told = model.column("frame_event", "test")[-1], model.column("event", "test")[-1]
    about = np.flatnonzero(np.asarray(events) == told)
    ((start, wide),) = bars(named["told"])
    np.testing.assert_allclose([start, start + wide], [about[0] / 6, (about[-1] + 1) / 6], atol=1e-3)
    told = np.asarray(model.column("event", "test"))[:, None]
    about = np.asarray(model.column("frame_event", "test")) == told
    expected = np.mean((np.arange(6) * about).sum(1) / about.mean(1))
    assert FrameAttention().run(model) == {"attention over even": pytest.approx(expected)}


def test_a_strip_is_wider_on_the_page():
    wide, square = (page.media(np.zeros(shape, np.uint8)) for shape in ((24, 144, 3), (24, 24, 3)))
    assert wide["text"] == "strip" and square["text"] == "small"
