"""Buckets, against object stores on loopback: exported files, data, and runs that are killed and resumed."""

import dataclasses
import json
import signal
import socket
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path

import buckets
import jax
import numpy as np
import pytest
import tiny_weights
import toy
from PIL import Image

import mmrep
from mmrep import paths
from mmrep.config import Mesh, Pretrained, Rule, Train, fingerprint
from mmrep.data.text import fit
from mmrep.errors import ConfigError, DataError
from mmrep.training import loop, metrics
from mmrep.training.checkpoint import Checkpoints


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
    with pytest.raises(ConfigError, match="there is no such bucket.: give another"):
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


CONFIG = toy.experiment(12, evals=(), train=Train(log_every=2, checkpoint_every=4))


def quiet(workdir=None, config=CONFIG, **more):
    return loop.train(config, workdir, progress=False, evaluate=None, **({"say": lambda _: None} | more))


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(np.asarray(x), np.asarray(y))), a, b))


@pytest.mark.slow
def test_a_run_in_a_bucket_is_resumed_bit_for_bit_past_a_damaged_checkpoint(bucket):
    folder = paths.at(f"{bucket}/run")
    straight = quiet()
    quiet(folder, stop=9)
    assert paths.names(folder / "checkpoints") == ["8", "9"] and ".lock" not in paths.names(folder)
    part = next(n for n in paths.names(folder / "checkpoints" / "9") if n.endswith(".safetensors"))
    content = bytearray(paths.read(folder / "checkpoints" / "9" / part))
    content[-1] ^= 1
    paths.replace(folder / "checkpoints" / "9" / part, bytes(content))
    paths.replace(folder / "checkpoints" / "11" / "part-0.safetensors", b"left by a killed save")
    said = []
    resumed = quiet(folder, say=said.append)
    assert same(straight.params, resumed.params)
    assert any("other bytes than were written" in s for s in said) and any("at step 8" in s for s in said)
    rows = [{k: v for k, v in row.items() if k not in ("examples_per_second", "data_wait")} for row in resumed.rows]
    assert rows == [{k: v for k, v in row.items() if k in ("step", *rows[0])} for row in straight.rows]
    assert metrics.read(folder / "metrics.jsonl") == resumed.rows
    assert paths.names(folder / "checkpoints") == ["12", "8", "9"] and Checkpoints(
        folder / "checkpoints", write=False
    ).steps == [8, 12]
    assert same(mmrep.load(str(folder)).params, straight.params)
    with pytest.raises(ConfigError, match="holds a run of another config"):
        quiet(folder, dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, lr=0.5)))


@pytest.mark.slow
def test_a_checkpoint_in_a_bucket_is_restored_on_other_devices(bucket, tmp_path):
    sharded = dataclasses.replace(CONFIG, mesh=Mesh(4, 1), sharding=(Rule(".*", "fsdp", min_size=1),))
    whole = quiet(tmp_path / "near", sharded)
    folder = paths.at(f"{bucket}/devices")
    quiet(folder, sharded, stop=8)
    far = quiet(folder, dataclasses.replace(CONFIG, mesh=Mesh(1, 1)))
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(far.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_a_lease_keeps_another_run_out_and_ends_with_its_process(bucket, capfd):
    folder = paths.at(f"{bucket}/leased")
    refused = pytest.raises(DataError, match="is in use by process")
    with paths.locked(folder, lease=1.0), refused, paths.locked(folder, lease=4.0):
        pass
    assert ".lock" not in paths.names(folder)
    other = {"key": "k", "process": 1, "host": "elsewhere", "space": "", "since": "2026-01-01 00:00:00", "renewed": 3}
    paths.replace(folder / ".lock", json.dumps(other))
    before = time.monotonic()
    with paths.locked(folder, lease=1.0):  # nobody renews it
        assert 1.0 <= time.monotonic() - before < 20
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    paths.replace(folder / ".lock", json.dumps(paths._mine() | {"process": dead.pid}))
    before = time.monotonic()
    with paths.locked(folder, lease=60.0):
        assert time.monotonic() - before < 20


KILLED = """
import os, signal, sys, toy
from mmrep import paths
from mmrep.config import Train
from mmrep.training import loop, parts

at, url = sys.argv[1:]
config = toy.experiment(12, evals=(), train=Train(log_every=2, checkpoint_every=4))
write, seal = parts.Parts._write, parts.Parts._seal

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

if at == "before the part":
    parts.Parts._write = lambda self, step, *a: die() if step == 8 else write(self, step, *a)
if at == "before the seal":
    parts.Parts._seal = lambda self, folder: die() if folder.name == "8" else seal(self, folder)
loop.train(config, paths.at(url), progress=False, say=print)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the part", "before the seal"])
def test_a_run_killed_in_the_middle_of_a_save_resumes_bit_for_bit(bucket, moment):
    url = f"{bucket}/killed-{moment[-4:]}"
    command = [sys.executable, "-c", KILLED]
    run = partial(subprocess.run, capture_output=True, text=True, env=buckets.for_processes(), timeout=300)
    killed = run([*command, moment, url])
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert ".lock" in paths.names(url)  # its process is dead, so the next one takes it over at once
    again = run([*command, "never", url])
    assert again.returncode == 0 and "at step 4 of 12" in again.stdout, again.stderr[-2000:]
    assert same(mmrep.load(url).params, quiet().params)
    assert paths.names(f"{url}/checkpoints") == ["12", "8"] and ".lock" not in paths.names(url)


PAIR = """
import os, signal, sys, toy
from mmrep import paths
from mmrep.config import Mesh, Pretrained, Rule, Train, fingerprint
from mmrep.data.text import fit
from mmrep.training import distributed, loop, parts

url, port, index, killed = sys.argv[1:]
options = dict(coordinator=f"127.0.0.1:{port}", processes=2, process_id=int(index), heartbeat=10)
write = parts.Parts._write
if killed == index:
    parts.Parts._write = lambda self, step, *a: os.kill(os.getpid(), signal.SIGKILL) if step == 8 else write(self, step, *a)
with distributed.joined(type("Options", (), options)):
    rules = (Rule(".*", "fsdp", min_size=1),)
    config = toy.experiment(12, mesh=Mesh(), sharding=rules, evals=(), train=Train(log_every=2, checkpoint_every=4))
    loop.train(config, paths.at(url), progress=False, say=print)
"""


def pair(url, killed):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    command, more = [sys.executable, "-c", PAIR, url, port], {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    runs = [subprocess.Popen([*command, i, killed], env=buckets.for_processes(), text=True, **more) for i in ("0", "1")]
    said = [p.communicate(timeout=300)[0] for p in runs]
    return [p.returncode for p in runs], said


@pytest.mark.slow
def test_two_processes_share_a_bucket_and_one_takes_up_what_they_left(bucket):
    url, straight = f"{bucket}/pair", quiet()
    codes, said = pair(url, "1")
    assert codes[1] == -signal.SIGKILL and codes[0] not in (0, None), said
    assert Checkpoints(paths.at(f"{url}/checkpoints"), write=False).steps == [4]
    codes, said = pair(url, "neither")
    assert codes == [0, 0] and "at step 4 of 12" in said[0], said
    parts = [n for n in paths.names(f"{url}/checkpoints/12") if n.endswith("safetensors")]
    assert len(parts) == 2
    for a, b in zip(jax.tree.leaves(straight.params), jax.tree.leaves(mmrep.load(url).params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_commands_take_urls(bucket, run_command):
    workdir, corpus = f"{bucket}/clip", f"{bucket}/corpus"
    tiny = ["clip", "--size", "tiny", "--workdir", workdir]
    small = ["--phases.0.steps", "2", "--data.source.n-train", "16", "--data.source.n-test", "8"]
    code, out, err = run_command("train", *tiny, *small, "--quiet")
    assert code == 0 and f"report: {workdir}/report.html" in out, err
    assert {"config.json", "tokenizer.model", "metrics.jsonl", "evaluation.json"} <= {*paths.names(workdir)}
    code, out, err = run_command("evaluate", *tiny, "--json")
    assert code == 0 and json.loads(out) == pytest.approx(json.loads(paths.text(f"{workdir}/evaluation.json"))), err
    code, out, err = run_command("embed", *tiny, "--out", corpus, "--shard-size", "4")
    assert code == 0 and "2 shards written" in out, err
    code, out, err = run_command("search", corpus, "--query", "text=a red circle")
    assert code == 0, err
    code, out, err = run_command("train", "clip", "--size", "tiny", "--workdir", f"{bucket[:2]}://absent-bucket/run")
    assert code == 2 and err.count("\n") == 1 and "give another --workdir" in err


@pytest.mark.slow
def test_the_cache_and_the_weights_that_a_phase_starts_from_may_be_in_a_bucket(bucket, monkeypatch):
    monkeypatch.setenv("MMREP_CACHE", f"{bucket}/cache")
    donor = loop.pretrained(CONFIG, progress=False)
    (kept,) = paths.names(paths.cache() / "pretrained")
    assert kept == fingerprint(CONFIG) and paths.local_cache() == Path.home() / ".cache" / "mmrep"
    before = paths.below(paths.cache())
    assert same(loop.pretrained(CONFIG, progress=False).params, donor.params) and paths.below(paths.cache()) == before
    file = donor.save(f"{bucket}/models/line.safetensors")
    phase = dataclasses.replace(
        CONFIG.phases[0], steps=1, trainable=("b/.*",), start=(Pretrained(file=str(file), parts=(("a/", "a/"),)),)
    )
    started = quiet(config=dataclasses.replace(CONFIG, phases=(phase,)))
    np.testing.assert_array_equal(started.params["a"]["kernel"], donor.params["a"]["kernel"])
    source, tokenizer = mmrep.get_config("clip", "tiny").data.source, mmrep.get_config("clip", "tiny").data.tokenizer
    texts = list(source.texts("train"))
    assert fit(texts, tokenizer, paths.cache() / "tokenizers") == fit(texts, tokenizer, paths.cache() / "tokenizers")
    assert len(paths.names(paths.cache() / "tokenizers")) == 1
