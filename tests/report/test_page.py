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
from mmrep.report import figures, media, page
from mmrep.report.panels import (
    Candidate,
    Column,
    Config,
    Curves,
    EmbeddingMap,
    Gallery,
    Heatmap,
    Item,
    Number,
    Numbers,
    Picture,
    Sound,
    Text,
    Versions,
    Words,
    best,
    retrieve,
)  # fmt: skip

RNG = np.random.default_rng(0)
EVIL = '<script>alert("x")</script> & <img src=http://x.y/z>'


def pictures(n, side=16):
    return [RNG.integers(0, 255, (side, side, 3)).astype(np.uint8) for _ in range(n)]


class Tags(HTMLParser):
    """Every tag with its attributes, and whether all non-void tags are closed in order."""

    VOID = frozenset({"meta", "link", "img", "br", "circle", "path", "rect", "image", "use"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

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
    points = figures.project_2d(RNG.normal(size=(20, 8)).astype(np.float32), seed=0)
    return [
        Numbers(EVIL, [(EVIL, [Number(0.5, 0.1), "n/a"])], ["R@1", Column(EVIL)], EVIL),
        Curves("Training", rows),
        Gallery("Gallery", [retrieve(Words(EVIL, EVIL), pool, np.arange(8), [0]), retrieve(pool[0], [EVIL, "b"], [1, 2], [0])]),
        Gallery("Sounds", [Item(Sound(wave, 8000, EVIL), [Candidate(Sound(wave, 8000), 1.0, True)])]),
        Heatmap("Similarity", RNG.normal(size=(2, 3)), [EVIL, "緑の丸"], ["دائرة", EVIL, "c"], EVIL, [(0, 0)]),
        EmbeddingMap("Map", points, [EVIL, "b"] * 10, [EVIL] * 20, [pool[0], None] * 10, [(0, 1)]),
        Config("Config", {"name": EVIL}),
        Versions("Versions", {EVIL: EVIL}),
        Text("Text", [EVIL]),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def html():
    return page.render(EVIL, EVIL, everything(), [EVIL])


def test_the_page_is_one_file_without_outside_addresses(html):
    tags = Tags(html)
    assert not tags.open
    for tag, attributes in tags.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            value = attributes.get(name)
            assert value is None or re.match(r"(data:|#)", value), (tag, name, value[:80])
        assert "http" not in (attributes.get("style") or "")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in html


def test_texts_are_escaped_everywhere(html):
    tags = Tags(html)
    assert len(tags.all("script")) == 1
    assert "<img src=http" not in html and 'alert("x")' not in html.replace("&quot;", "")
    assert sum(EVIL in t for t in tags.text) >= 10  # shown as it was written


def test_ids_are_unique_and_every_reference_inside_is_answered(html):
    tags = Tags(html)
    ids = [a["id"] for _, a in tags.tags if "id" in a]
    wanted = re.findall(r'href="#([^"]+)"', html) + re.findall(r"url\(#([^)]+)\)", html)
    assert set(wanted) <= set(ids)
    labelled = [a["aria-labelledby"] for _, a in tags.tags if "aria-labelledby" in a]
    assert labelled and all(ids.count(i) == 1 for i in labelled)


def test_pictures_and_figures_have_words_and_tables_have_headers(html):
    tags = Tags(html)
    assert tags.all("img") and all(a.get("alt") for a in tags.all("img"))
    for kind in ("plot", "map", "wave"):
        found = [a for a in tags.all("svg") if a.get("class") == kind]
        assert found and all(a["role"] == "img" and a["aria-label"] for a in found)
    assert len(tags.all("table")) == 2
    assert sum(a.get("scope") == "col" for a in tags.all("th")) == 2 + 3
    assert sum(a.get("scope") == "row" for a in tags.all("th")) == 1 + 2
    assert "train/loss from 5 at step 1 to" in html
    assert "1 non-finite value left out" in html


def test_other_scripts_stay_text(html):
    assert "緑の丸" in html and "دائرة" in html


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "report.html"
    assert page.write_page(path, "a", "b", [Text("t", ["first"])]) == path
    before = path.read_bytes()
    assert page.write_page(path, "a", "b", [Text("t", ["first"])]).read_bytes() == before
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        page.write_page(path, "a", "b", [Text("t", ["second"])])
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_a_typical_run_stays_below_five_megabytes():
    photos = [np.asarray(Image.fromarray(p).resize((512, 384))) for p in pictures(48, 24)]
    noise = [np.clip(RNG.normal(scale=0.2, size=32000), -1, 1).astype(np.float32) for _ in range(48)]
    keys = [f"train/loss_{i}" for i in range(4)] + ["train/lr", "train/grad_norm", "examples_per_second"]
    rows = [{"step": 10 * s} | {k: float(v) for k, v in zip(keys, RNG.normal(size=7))} for s in range(2000)]
    labels = [f"thing {i}" for i in range(400)]
    panels = [
        Curves("Training", rows),
        Gallery("Pictures", [retrieve("text", photos, RNG.normal(size=48), [0]) for _ in range(8)]),
        Gallery("Sounds", [retrieve("text", [Sound(w, 16000) for w in noise], RNG.normal(size=48), [0]) for _ in range(8)]),
        Heatmap("Similarity", RNG.normal(size=(32, 32)), labels[:32], labels[:32]),
        EmbeddingMap("Map", RNG.normal(size=(400, 2)), ["a", "b"] * 200, labels, photos + [None] * 352),
    ]  # fmt: skip
    assert len(page.render("t", "l", panels).encode()) < 5e6


def decode(uri):
    head, _, body = uri.partition(",")
    return head, io.BytesIO(base64.b64decode(body))


@pytest.mark.parametrize("shape", [(12, 9), (12, 9, 1), (12, 9, 3), (12, 9, 4)])
def test_small_pictures_round_trip_exactly(shape):
    pixels = RNG.integers(0, 255, shape).astype(np.uint8)
    head, body = decode(media.picture_uri(pixels))
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(body)), pixels.squeeze(-1) if shape[-1] == 1 else pixels)


def test_large_pictures_shrink():
    head, body = decode(media.picture_uri(RNG.integers(0, 255, (600, 300, 3)).astype(np.uint8)))
    assert head == "data:image/jpeg;base64" and Image.open(body).size == (112, 224)


@pytest.mark.parametrize("rate", [16000, 10000])
def test_sounds_round_trip_and_lose_their_padding(rate):
    wave = (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)
    head, body = decode(page._media(Sound(np.pad(wave, (0, rate)), rate))["uri"])
    back, found = soundfile.read(body)
    assert found == rate and 0.95 < len(back) / rate < 1.2
    spectrum = np.abs(np.fft.rfft(back))
    assert abs(np.argmax(spectrum) * rate / len(back) - 440) < 2
    assert head == ("data:audio/mpeg;base64" if rate == 16000 else "data:audio/wav;base64")
    assert 0.4 < np.abs(back).max() < 0.6
    silent = page._media(Sound(np.zeros(rate, np.int16), rate))
    assert silent["uri"].startswith("data:audio")


def test_wrong_media_are_told():
    for thing, sentence in [
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4, 7), np.uint8), "shape"),
        (Sound(np.zeros((2, 4), np.float32), 8000), "mono"),
        (3, "cannot show"),
    ]:
        with pytest.raises(DataError, match=sentence):
            page.render("t", "l", [Gallery("g", [Item(thing, [])])])


def test_the_right_rank_is_found_and_ties_count_against_the_query():
    pool = list("abcdefgh")
    item = retrieve("q", pool, [0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.6, 0.5], [0, 4], k=5)
    assert [c.media for c in item.candidates] == ["b", "d", "f", "g", "h"]
    assert (item.rank, item.pool, item.right) == (7, 8, Candidate("e", 0.2, True))
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
    assert "right answer at rank 2" in html and "beside" not in html[html.index("<main>") :]
    far = page.render("t", "l", [Gallery("g", [retrieve("q", list("abcdefgh"), np.arange(8), [0])])])
    beside = far[far.index('<div class="beside">') :]
    assert "#8" in beside and ">a<" in beside and "right answer at rank 8" in far


def test_best_values_and_values_not_above_chance():
    assert best([1.0, None, 3.0, float("nan"), 3.0], "higher") == [False, False, True, False, True]
    assert best([1.0, 2.0], "lower") == [True, False]
    assert best([1.0], "higher") == best([2.0], "") == [False]
    rows = [("a", [Number(0.5, 0.1), 7.0]), ("b", [Number(0.04, 0.0550), 9.0])]
    html = page.render("t", "l", [Numbers("n", rows, ["R@1", Column("median rank", "lower")])])
    assert (
        "<strong>0.500</strong>" in html and "<strong>7</strong>" in html and html.count("<strong>") == 3
    )  # and the key
    assert ">not better than chance 0.055<" in html and ">chance 0.1<" in html


def test_panels_check_their_shapes():
    with pytest.raises(ConfigError, match="2 cells"):
        Numbers("n", [("a", [1, 2])], ["x"])
    with pytest.raises(ConfigError, match="labels say"):
        Heatmap("h", np.zeros((2, 2)), ["a"], ["b", "c"])
    with pytest.raises(ConfigError, match="3 labels"):
        EmbeddingMap("m", np.zeros((2, 2)), ["a", "b"], ["a", "b", "c"])
    with pytest.raises(ConfigError, match="finite"):
        EmbeddingMap("m", np.full((1, 2), np.nan), ["a"], ["a"])
    with pytest.raises(ConfigError, match="smoothing"):
        Curves("c", [], smoothing=1.0)


def test_empty_and_degenerate_panels_render():
    flat = [{"step": s, "train/loss": 1.0} for s in range(40)]
    panels = [
        Numbers("n", [], ["x"]), Curves("c", []), Curves("c", [{"step": 1, "train/loss": float("nan")}]), Curves("c", flat, log=["Loss"]),
        Gallery("g", []), Heatmap("h", np.full((1, 2), np.nan), ["a"], ["b", "c"]), Heatmap("h", np.zeros((0, 0)), [], []),
        EmbeddingMap("m", np.zeros((0, 2)), [], []), EmbeddingMap("m", np.zeros((3, 2)), ["a"] * 3, ["x", "", "z"]),
        Gallery("g", [Item("q", [Candidate("cut \ud83d", float("nan"))])]), Versions("v"), Config("c", None), Text("t", []),
    ]  # fmt: skip
    assert not Tags(page.render("t", "l", panels)).open
    assert len(panels) == page.render("t", "l", panels).count("<section ")


def test_heat_follows_the_values():
    html = page.render("t", "l", [Heatmap("h", np.array([[0.0, 0.5], [-0.001, 1.0]]), ["a", "b"], ["c", "d"], low=0.0)])
    assert re.findall(r"--v:(\d+)%", html) == ["0", "50", "0", "100"]
    assert "b × c: .00" in html


def test_spikes_survive_thinning():
    values = np.ones(20_000)
    values[[777, 15_000]] = [9.0, -9.0]
    xs, ys = figures._extremes(list(range(20_000)), values.tolist())
    assert len(xs) <= 600 and xs == sorted(xs) and max(ys) == 9.0 and min(ys) == -9.0
    assert xs[ys.index(9.0)] == 777


def test_projection_is_seeded_and_keeps_clusters_apart():
    centres = np.eye(3, 16).repeat(20, 0) * 4
    x = (centres + RNG.normal(size=(60, 16)) * 0.1).astype(np.float32)
    for method in ("tsne", "pca"):
        a = figures.project_2d(x, seed=1, method=method)
        np.testing.assert_array_equal(a, figures.project_2d(x, seed=1, method=method))
        assert a.shape == (60, 2) and a.dtype == np.float32
        means = a.reshape(3, 20, 2).mean(1)
        spread = np.linalg.norm(a.reshape(3, 20, 2) - means[:, None], axis=-1).max()
        assert min(np.linalg.norm(means[i] - means[j]) for i, j in [(0, 1), (0, 2), (1, 2)]) > 2 * spread
    for n, d in [(0, 4), (1, 4), (2, 4), (5, 1), (9, 1)]:
        assert figures.project_2d(RNG.normal(size=(n, d)).astype(np.float32), seed=0).shape == (n, 2)
    assert not figures.project_2d(np.ones((30, 4), np.float32), seed=0).any()
    with pytest.raises(DataError, match="row 3"):
        figures.project_2d(np.where(np.arange(8)[:, None] == 3, np.nan, x[:8]), seed=0)
    with pytest.raises(ConfigError, match="tsne or pca"):
        figures.project_2d(x, seed=0, method="umap")


def test_numbers_read_well():
    given = [0.1234, 0.5, 12.345, 1234567.0, 1.23e-5, 3.0, float("nan"), 123.456, -0.25, 12345.6]
    want = ["0.1234", "0.5000", "12.35", "1,234,567", "1.23e-05", "3", "nan", "123.5", "-0.2500", "12,346"]
    assert [figures.number(v) for v in given] == want


def test_config_is_json_again():
    html = page.render("t", "l", [Config("c", {"b": [1, 2.5, None], "名": "x"})])
    text = "".join(Tags(html[html.index("<pre>") : html.index("</pre>") + 6]).text)
    assert json.loads(text) == {"b": [1, 2.5, None], "名": "x"}


def test_captions_and_alternatives_are_used():
    picture = Picture(pictures(1)[0], "a red circle", "red circle on grey")
    html = page.render("t", "l", [Gallery("g", [Item(picture, [Candidate(Words("緑", lang="ja"), 0.5)])])])
    assert 'alt="red circle on grey"' in html and ">a red circle</figcaption>" in html and 'lang="ja"' in html
