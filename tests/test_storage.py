"""Buckets, against object stores on loopback: exported files, data, and runs that are killed and resumed."""

import buckets
import jax
import numpy as np
import pytest
import tiny_weights

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
