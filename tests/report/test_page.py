import base64
import io
import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmrep.errors import ConfigError, DataError
from mmrep.report import figures, page
from mmrep.report.panels import (
    Candidate,
    Code,
    Column,
    Figure,
    Gallery,
    Grid,
    Item,
    Number,
    Picture,
    Sound,
    Table,
    Words,
    retrieve,
)  # fmt: skip
from mmrep.report.tables import split_name, tables

RNG = np.random.default_rng(0)
EVIL = '<script>alert("x")</script> & <img src=http://x.y/z>'


def pictures(n, side=16):
    return [RNG.integers(0, 255, (side, side, 3)).astype(np.uint8) for _ in range(n)]


class Tags(HTMLParser):
    """Every tag with its attributes, and the text. Asserts that tags are closed in order."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [a for t, a in self.tags if t == tag]


def everything():
    pool = pictures(8)
    rows = [{"step": s, "train/loss": 5 / s if s != 40 else float("nan"), "train/lr": 1e-3} for s in range(1, 1201)]
    rows += [{"step": 400 * k, "eval/a->b R@1": 0.1 * k} for k in (1, 2, 3)]
    wave = np.sin(np.arange(8000) / 9).astype(np.float32)
    points = RNG.normal(size=(20, 2)).astype(np.float32)
    thumbnails = [pool[0], None] * 10
    return [
        Table(EVIL, [Column("R@1"), Column(EVIL)], [(EVIL, [Number(0.5, 0.1), "n/a"])], EVIL),
        Figure("Training", figures.curves(rows), EVIL),
        Gallery("Gallery", [retrieve(Words(EVIL, EVIL), pool, np.arange(8), [0]), retrieve(pool[0], [EVIL, "b"], [1, 2], [0])]),
        Gallery("Sounds", [Item(Sound(wave, 8000, EVIL), [Candidate(Sound(wave, 8000), 1.0, 1, True)], 1, 1)]),
        Grid("Grid", [EVIL, "b"], [EVIL], [[Picture(pool[0], EVIL), Words("緑", lang="ja")]]),
        Figure("Similarity", figures.heatmap(RNG.normal(size=(2, 3)), [EVIL, "緑の丸"], ["دائرة", "$x$", "c"]), "matrix"),
        Figure("Map", figures.embedding_map(points, [EVIL, "b"] * 10, [EVIL] * 20, thumbnails, [(0, 1)]), "map"),
        Code("Config", json.dumps({"name": EVIL})),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def html():
    return page.render(EVIL, EVIL, everything(), [EVIL])


def decode(uri):
    head, _, body = uri.partition(",")
    return head, io.BytesIO(base64.b64decode(body))


def test_the_page_is_one_file_that_loads_nothing(html):
    tags = Tags(html)
    for tag, attributes in tags.tags:
        for name in ("src", "href", "srcset"):
            value = attributes.get(name)
            assert value is None or re.match(r"(data:|#)", value), (tag, name, value[:80])
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in html and not tags.all("script")


def test_text_is_escaped_everywhere(html):
    assert "<img src=http" not in html and 'alert("x")' not in html.replace("&quot;", "")
    assert sum(EVIL in t for t in Tags(html).text) >= 10  # printed as it was written


def test_references_have_targets_images_have_descriptions_and_tables_headers(html):
    tags = Tags(html)
    ids = [a["id"] for _, a in tags.tags if "id" in a]
    assert len(set(ids)) == len(ids) and set(re.findall(r'href="#([^"]+)"', html)) <= set(ids)
    assert tags.all("img") and all(a.get("alt") for a in tags.all("img"))
    assert sum(a.get("scope") == "col" for a in tags.all("th")) == 2 + 2
    assert sum(a.get("scope") == "row" for a in tags.all("th")) == 1 + 1


def test_figures_keep_other_scripts_as_text(html):
    svgs = [decode(a["src"])[1].read().decode() for a in Tags(html).all("img") if "svg" in a["src"][:20]]
    assert len(svgs) == 3 and any("緑の丸" in s and "دائرة" in s and "$x$" in s for s in svgs)


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "report.html"
    assert page.write_page(path, "a", "b", [Code("t", "first")]) == path
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        page.write_page(path, "a", "b", [Code("t", "second")])
    assert path.read_bytes() == before


@pytest.mark.parametrize("shape", [(12, 9), (12, 9, 1), (12, 9, 3), (12, 9, 4)])
def test_small_pictures_round_trip_exactly(shape):
    pixels = RNG.integers(0, 255, shape).astype(np.uint8)
    head, body = decode(page.picture_uri(pixels))
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(body)), pixels.squeeze(-1) if shape[-1] == 1 else pixels)


def test_large_pictures_shrink():
    head, body = decode(page.picture_uri(RNG.integers(0, 255, (600, 300, 3)).astype(np.uint8)))
    assert head == "data:image/jpeg;base64" and Image.open(body).size == (112, 224)


@pytest.mark.parametrize("rate", [16000, 10000])
def test_sounds_round_trip_and_lose_their_padding(rate):
    wave = (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)
    head, body = decode(page.sound_uri(np.pad(wave, (0, rate)), rate))
    back, found = soundfile.read(body)
    assert found == rate and 0.95 < len(back) / rate < 1.2
    spectrum = np.abs(np.fft.rfft(back))
    assert abs(np.argmax(spectrum) * rate / len(back) - 440) < 2
    assert head == ("data:audio/mpeg;base64" if rate == 16000 else "data:audio/wav;base64")
    assert 0.4 < np.abs(back).max() < 0.6
    assert page.sound_uri(np.zeros(rate, np.int16), rate).startswith("data:audio")


def test_wrong_media_are_an_error():
    for thing, sentence in [
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4, 7), np.uint8), r"\[4, 4, 7\]"),
        (Sound(np.zeros((2, 4), np.float32), 8000), "mono"),
        (3, "cannot show"),
    ]:
        with pytest.raises(DataError, match=sentence):
            page.media(thing)


def test_ties_count_against_the_query_and_a_late_right_answer_is_shown():
    pool = list("abcdefgh")
    item = retrieve("q", pool, [0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.6, 0.5], [0, 4], k=5)
    assert [c.media for c in item.candidates] == ["b", "d", "f", "g", "h", "e"]
    assert (item.rank, item.pool, item.candidates[-1]) == (7, 8, Candidate("e", 0.2, 7, True))
    assert retrieve("q", pool, np.zeros(8), [0]).rank == 8
    assert retrieve("q", pool, np.full(8, np.nan), [0]).rank == 8
    assert retrieve("q", pool, np.arange(8), [7]).rank == 1
    assert retrieve("q", pool, np.arange(8), []).rank is None
    with pytest.raises(ConfigError, match="one score each"):
        retrieve("q", pool, [1.0], [0])


def test_the_right_answer_is_marked_with_more_than_colour():
    html = page.render("t", "l", [Gallery("g", [retrieve("q", list("abc"), [3, 2, 1], [1])])])
    (card,) = re.findall(r'<div class="card right">(.*?)</div>', html, re.DOTALL)
    assert "✓" in card and ">b<" in card and "#2" in card and 'aria-label="right answer"' in card
    assert "right answer at rank 2" in html


def test_best_values_and_values_not_above_chance():
    rows = [("a", [Number(0.5, 0.1), Number(7.0)]), ("b", [Number(0.04, 0.055), Number(9.0)]), ("c", [None, "n/a"])]
    table = Table("n", [Column("R@1"), Column("median rank", "lower")], rows)
    assert table.best(0) == [True, False, False] == table.best(1)
    html = page.render("t", "l", [table])
    assert "<strong>0.500</strong>" in html and "<strong>7</strong>" in html and html.count("<strong>") == 2
    assert ">not better than chance 0.055<" in html and ">chance 0.1<" in html and "–" in html
    with pytest.raises(ConfigError, match="1 cells for 2 columns"):
        Table("n", table.columns, [("a", [1])])


def test_an_evaluation_becomes_tables_with_chance_beside_its_measure():
    values = {
        "a->b R@1": 0.13, "a->b chance_R@1": 0.01, "a->b median_rank": 31.0, "b->a R@1": 0.12, "b->a median_rank": 30.0,
        "zero-shot accuracy": 0.4, "zero-shot top-5": 0.7, "zero-shot chance": 0.1, "match R@1": 0.3, "chance R@1": 0.02,
    }  # fmt: skip
    first, second = tables("Measures", values)
    assert first.columns == [Column("R@1", "higher"), Column("median rank", "lower")]
    assert [name for name, _ in first.rows] == ["a → b", "b → a"]
    assert [row[0].chance for _, row in first.rows] == [0.01, 0.02]
    # What no two labels share is one table of single numbers.
    assert second.title == "Measures: other numbers" and [c.name for c in second.columns] == ["value"]
    assert second.rows == [
        ("zero-shot accuracy ↑", [(0.4, 0.1)]), ("zero-shot top-5 ↑", [(0.7, None)]), ("match R@1 ↑", [(0.3, 0.02)]),
    ]  # fmt: skip
    assert not any(second.best(0))
    (only,) = tables("Measures", {"a loss": 0.5, "accuracy": 0.4})
    assert only.title == "Measures" and [name for name, _ in only.rows] == ["a loss ↓", "accuracy ↑"]


def test_metrics_that_belong_together_share_a_plot():
    rows = [{"step": 1, "train/loss": 1.0, "train/loss_i2t": 1.0, "train/lr": 1.0, "phase": "train"}]
    for step in (1, 2):
        rows.append({"step": step, "eval/a->b R@1": 0.1, "eval/a->b R@5": 0.2, "eval/a->b chance_R@1": 0.01})
    rows.append({"step": 2, "eval/once": 0.1})
    assert figures.groups(rows) == {
        "loss": ["train/loss", "train/loss_i2t"], "lr": ["train/lr"],
        "a → b R@k": ["eval/a->b R@1", "eval/a->b R@5", "eval/a->b chance_R@1"],
    }  # fmt: skip


def test_smoothing_is_the_two_sided_average_and_skips_nan():
    x = RNG.normal(size=20)
    x[7] = np.nan
    known = ~np.isnan(x)
    got = figures.smooth(x, 0.8)
    for t in range(20):
        w = 0.8 ** np.abs(t - np.arange(20)) * known
        np.testing.assert_allclose(got[t], np.nan if t == 7 else np.sum(w * np.nan_to_num(x)) / w.sum(), rtol=0.02)
    np.testing.assert_allclose(figures.smooth(np.full(900, 3.0), 0.9), 3.0)


def test_spikes_survive_thinning():
    values = np.ones(20_000)
    values[[777, 15_000]] = [9.0, -9.0]
    kept = figures.extremes(values, 600)
    assert len(kept) <= 600 and {777, 15_000} <= set(kept.tolist())


def test_projection_is_seeded_and_keeps_clusters_apart():
    centres = np.eye(3, 16).repeat(20, 0) * 4
    x = (centres + RNG.normal(size=(60, 16)) * 0.1).astype(np.float32)
    a = figures.project_2d(x, seed=1)
    np.testing.assert_array_equal(a, figures.project_2d(x, seed=1))
    means = a.reshape(3, 20, 2).mean(1)
    spread = np.linalg.norm(a.reshape(3, 20, 2) - means[:, None], axis=-1).max()
    assert min(np.linalg.norm(means[i] - means[j]) for i, j in [(0, 1), (0, 2), (1, 2)]) > 2 * spread
    for n, d in [(0, 4), (1, 4), (2, 4), (5, 1), (9, 1)]:
        assert figures.project_2d(RNG.normal(size=(n, d)).astype(np.float32), seed=0).shape == (n, 2)
    assert not figures.project_2d(np.ones((30, 4), np.float32), seed=0).any()
    with pytest.raises(DataError, match="row 3"):
        figures.project_2d(np.where(np.arange(8)[:, None] == 3, np.nan, x[:8]), seed=0)


def test_empty_and_degenerate_panels_render():
    flat = [{"step": s, "train/loss": 1.0} for s in range(40)]
    panels = [
        Table("n", [Column("x")], []), Figure("c", figures.curves([]), "c"), Figure("c", figures.curves(flat), "c"),
        Figure("c", figures.curves([{"step": 1, "train/loss": float("nan")}]), "c"), Gallery("g", []),
        Figure("h", figures.heatmap(np.full((1, 2), np.nan), ["a"], ["b", "c"]), "h"),
        Figure("m", figures.embedding_map(np.zeros((3, 2)), ["a"] * 3, ["x", "", "z"], [None] * 3, []), "m"),
        Gallery("g", [Item("q", [Candidate("cut \ud83d", float("nan"), 1)], None, 1)]), Code("c", ""),
    ]  # fmt: skip
    assert page.render("t", "l", panels).count("<section ") == len(panels)


def test_recall_at_an_iou_is_one_metric():
    assert split_name("any R@1 IoU 0.5") == ("any", "R@1 IoU 0.5") and split_name("R@5 IoU 0.7") == ("", "R@5 IoU 0.7")
    (table,) = tables("Held-out data", {"R@1 IoU 0.5": 0.3, "any R@1 IoU 0.5": 0.7})
    assert [c.name for c in table.columns] == ["R@1 IoU 0.5"] and [name for name, _ in table.rows] == ["all", "any"]
