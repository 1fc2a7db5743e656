"""Furniture: a catalogue of boxes, made here."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from mmrep.config import from_json, to_json
from mmrep.data import furniture
from mmrep.data.furniture import Furniture, mesh, properties, sample
from mmrep.errors import ConfigError, DataError

BOX = "".join(f"v {x} {y} {z}\n" for x in (0, 2) for y in (0, 1) for z in (0, 1)) + "usemtl a\n"
FACES = "f 1/1/1 2/2/1 4 3\nf 5 7 8 6\nf 1 5 6 2\nf 3 4 8 7\nf -8 -6 -2 -4\nf 2 6 8 4\n"


def box(extra):
    """A box with `extra` more vertices, so that no two meshes are of one size."""
    return (BOX + "v 0 0 0\n" * extra + (FACES if not extra else FACES.replace("-8 -6 -2 -4", "1 3 7 5"))).encode()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MMREP_CACHE", str(tmp_path / "cache"))
    icon = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(icon, "PNG")
    english, german = [], []
    with zipfile.ZipFile(tmp_path / "boxes.sh3f", "w") as archive:
        for i in range(40):
            english += [
                f"name#{i}=Box {'abcdefghij'[i % 10]}{i // 20}",
                f"category#{i}=Office",
                f"tags#{i}=Blend Swap, Seat",
                f"model#{i}=/m/{i}.obj",
            ]
            english += [f"icon#{i}=/m/i.png", f"modelRotation#{i}=0 0 1 0 1 0 -1 0 0" if i else ""]
            german.append(f"name#{i}=K\\u00e4stchen {i}")
            archive.writestr(f"m/{i}.obj", box(i if i != 39 else 20))
        english += ["name#99=Absent", "model#99=/m/absent.obj"]
        archive.writestr("m/i.png", icon.getvalue())
        archive.writestr("PluginFurnitureCatalog.properties", "# a comment = x\n" + "\n".join(english))
        archive.writestr("PluginFurnitureCatalog_de.properties", "\n".join(german))
    furniture._models.cache_clear()
    yield tmp_path
    furniture._models.cache_clear()


def test_records_are_clouds_with_names(folder):
    source = Furniture(languages=("de",), folder=str(folder), n_points=64, fractions=(0.4, 0.3, 0.3))
    assert from_json(json.loads(json.dumps(to_json(source)))) == source
    raw = [(split, r) for split in ("train", "val", "test") for r in source.open(split)]
    assert len(raw) == 40
    first = source.view(next(r for _, r in raw if r["name_de"] == "Kästchen 0"), None)
    assert (
        first["text"] == "box a0, seat, office" and first["category"] == "Office" and first["image"].shape == (8, 8, 3)
    )
    assert first["points"].shape == first["points_b"].shape == (64, 3) and first["points"].dtype == np.float32
    assert not np.array_equal(first["points"], first["points_b"])
    record = raw[3][1]
    np.testing.assert_array_equal(source.view(record, None)["points"], source.view(record, None)["points"])
    assert not np.array_equal(
        source.view(record, np.random.default_rng(0))["points"], source.view(record, np.random.default_rng(1))["points"]
    )
    assert "Kästchen 7" in {t for s in ("train", "val", "test") for t in source.texts(s)}
    # Equal names, and meshes of one size (20 and 39), are on one side; equal texts have one number.
    sides = {}
    for split, r in raw:
        sides.setdefault(r["name"], {*()}).add(split)
    assert all(len(s) == 1 for s in sides.values()) and sides["Box a1"] == sides["Box j1"]
    assert len({r["shape"].item() for _, r in raw}) == len({r["text"] for _, r in raw}) == 20


def test_surfaces_are_kept_in_the_cache_and_turned_upright(folder, monkeypatch):
    _, points, _ = furniture._models(str(folder))
    spread = np.ptp(points, axis=1)
    # 2 long, 1 high and 1 deep: the largest side is 2; the rotation turns x into depth. y of the file is height.
    np.testing.assert_allclose(spread[0], [2, 1, 1], atol=0.02)
    np.testing.assert_allclose(spread[1], [1, 2, 1], atol=0.02)
    furniture._models.cache_clear()
    monkeypatch.setattr(furniture, "mesh", lambda *_: pytest.fail("the cache was not used"))
    np.testing.assert_array_equal(furniture._models(str(folder))[1], points)


def test_parts():
    vertices, triangles = mesh(box(0))
    assert vertices.shape == (8, 3) and triangles.shape == (12, 3) and triangles.min() == 0
    x = sample(vertices, triangles, 4000, np.random.default_rng(0))
    on_a_side = np.isclose(x, 0) | np.isclose(x, [2, 1, 1])
    assert on_a_side.any(1).all() and x.min() >= 0
    # The ends, of area 1 each, hold two tenths of the points.
    assert (np.isclose(x[:, 0], 0) | np.isclose(x[:, 0], 2)).mean() == pytest.approx(0.2, abs=0.03)
    assert properties(b"a#1=x\\u00e9 \\\n  y\n#b=2\nc=d\\:e") == {"a#1": "xé y", "c": "d:e"}
    with pytest.raises(DataError, match="no mesh"):
        mesh(b"v 0 0 0\nf 1 2 3\n")


def test_what_is_absent_is_explained(folder, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(furniture, "USUAL", folder / "absent")
    with pytest.raises(DataError, match="apt install sweethome3d-furniture"):
        Furniture().open("train")
    with pytest.raises(DataError, match="no catalogue has names in 'xx'; there are de"):
        Furniture(languages=("xx",), folder=str(folder)).open("train")
    with pytest.raises(ConfigError, match="n_points is 1"):
        Furniture(n_points=1)
