"""Buckets, against object stores on loopback: exported files, data, and runs that are killed and resumed."""

import tarfile

import buckets
import jax
import numpy as np
import pytest
import tiny_weights
from PIL import Image

import mmrep
from mmrep import paths
from mmrep.errors import ConfigError, DataError


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request):
    if why := buckets.absent(request.param):
        pytest.skip(why)
    with buckets.bucket(request.param) as url:
        yield url


@pytest.mark.slow
def test_places_of_a_bucket_are_written_listed_and_read_by_parts(bucket):
    folder = paths.at(f"{bucket}/files")
    assert not paths.exists(folder) and paths.names(folder) == [] and paths.below(folder) == {}
    paths.make(folder)
    paths.replace(folder / "a.txt", "first")
    paths.replace(folder / "a.txt", "é second")
    paths.replace(folder / "in" / "b.bin", bytes(range(100)))
    assert paths.text(folder / "a.txt") == "é second"
    assert paths.read(folder / "in" / "b.bin", 10, 13) == bytes([10, 11, 12])
    assert paths.names(folder) == ["a.txt", "in"] and paths.is_dir(folder / "in")
    assert paths.below(folder) == {"a.txt": 9, "in/b.bin": 100} and paths.size(folder / "in" / "b.bin") == 100
    with paths.fetched(folder) as copy:
        assert (copy / "in" / "b.bin").read_bytes() == bytes(range(100))
    paths.remove(folder / "in")
    assert paths.names(folder) == ["a.txt"]
    with pytest.raises(FileNotFoundError, match="none"):
        paths.read(folder / "none")
    with pytest.raises(ConfigError, match="give another"):
        paths.make(paths.at(f"{bucket[:2]}://absent-bucket/run"), "give another")


@pytest.mark.slow
def test_a_model_is_saved_to_a_bucket_and_loaded_from_it(bucket):
    model = mmrep.create("clip", "tiny")
    place = model.save(f"{bucket}/models/clip.safetensors")
    assert str(place) == f"{bucket}/models/clip.safetensors"
    again = mmrep.load(str(place))
    np.testing.assert_array_equal(model.embed(text=["a red circle"]), again.embed(text=["a red circle"]))
    with pytest.raises(DataError, match=f"no file {bucket}/models/other.safetensors"):
        mmrep.load(f"{bucket}/models/other.safetensors")
    paths.replace(paths.at(f"{bucket}/models/cut.safetensors"), paths.read(place)[:1000])
    with pytest.raises(DataError, match=f"{bucket}/models/cut.safetensors"):
        mmrep.load(f"{bucket}/models/cut.safetensors")


@pytest.mark.slow
def test_published_weights_are_loaded_from_a_bucket_and_written_to_it(bucket, tmp_path):
    local = mmrep.load(tiny_weights.vit_folder(tmp_path / "vit"))
    local.save(f"{bucket}/models/vit", format="hf")
    assert "model.safetensors" in paths.names(paths.at(f"{bucket}/models/vit"))
    far = mmrep.load(f"{bucket}/models/vit")
    for a, b in zip(jax.tree.leaves(local.params), jax.tree.leaves(far.params), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(DataError, match=f"no file {bucket}/models/none"):
        mmrep.load(f"{bucket}/models/none")


def test_without_its_package_a_bucket_is_one_sentence(monkeypatch):
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="s3:// needs s3fs: pip install -r requirements-storage.txt"):
        mmrep.load("s3://bucket/run")


@pytest.fixture
def photos(tmp_path):
    """A folder, a table and a shard of twelve pictures with captions."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos" / "é").mkdir(parents=True)
    lines = ["image,caption"]
    with tarfile.open(tmp_path / "p-000.tar", "w") as tar:
        for i in range(12):
            picture = tmp_path / "photos" / "é" / f"{i}.png"
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(picture)
            picture.with_suffix(".txt").write_text(f"picture {i}\n", encoding="utf-8")
            lines.append(f"photos/é/{i}.png,picture {i}")
            for file in (picture, picture.with_suffix(".txt")):
                tar.add(file, f"{i}{file.suffix}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "table", "shards"])
def test_data_in_a_bucket_give_the_records_and_the_digest_of_the_local_ones(bucket, photos, kind):
    for name in paths.below(photos):
        paths.replace(paths.at(f"{bucket}/data") / name, (photos / name).read_bytes())
    sources = {
        "folder": lambda root: mmrep.Folder(f"{root}/photos"),
        "table": lambda root: mmrep.Table(f"{root}/pairs.csv"),
        "shards": lambda root: mmrep.Shards(f"{root}/p-{{000..000}}.tar"),
    }
    near, far = sources[kind](photos), sources[kind](f"{bucket}/data")
    for _ in range(2):  # the second time through the index of the shard
        a, b = near.open("train"), far.open("train")
        assert len(a) == len(b) > 0 and a.digest() == b.digest()
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x["image"], y["image"])
            assert x["text"] == y["text"] and y["file"].startswith(f"{bucket}/data")
    assert list(near.texts("train")) == list(far.texts("train"))
    if kind == "shards":
        assert "p-000.tar.index.npz" in paths.names(paths.at(f"{bucket}/data"))
        assert len(mmrep.Shards(f"{bucket}/data/p-*.tar").open("train")) == len(a)
    with pytest.raises(DataError, match=f"{bucket}/none"):
        sources[kind](f"{bucket}/none").open("train")
    if kind == "table":
        paths.remove(paths.at(f"{bucket}/data/photos/é"))
        with pytest.raises(DataError, match="cannot be read .no such object."):
            far.open("train")[0]
