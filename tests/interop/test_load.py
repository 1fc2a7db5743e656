import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_weights
import toy

import mmrep
from experiments import _cli
from mmrep.config import Mesh
from mmrep.errors import ConfigError, DataError
from mmrep.training import loop


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "align-tiny"
    config = dataclasses.replace(_cli.experiment("align", "tiny"), mesh=Mesh(1, 1), evals=())
    return folder, loop.train(config, folder, progress=False)


def test_a_run_loads_with_its_preprocessing(run):
    folder, trained = run
    model = mmrep.load(folder)
    text = model.call("text", text=["a small red circle", "a big blue square", "a star"])
    assert text.shape == (3, 32) and np.allclose(np.linalg.norm(text, axis=1), 1, atol=1e-5)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 50, 40, 3)).astype(np.uint8)
    assert model.call("image", image=list(pictures)).shape == (2, 32)
    np.testing.assert_array_equal(
        np.asarray(model.params["scale"]["log_scale"]), np.asarray(trained.params["scale"]["log_scale"])
    )


def test_a_saved_file_gives_the_same_embeddings(run, tmp_path):
    folder, trained = run
    path = trained.save(tmp_path / "align.safetensors")
    back = mmrep.load(path)
    assert back.experiment == trained.experiment
    words = ["a small red circle", "a big blue square"]
    np.testing.assert_array_equal(back.call("text", text=words), mmrep.load(folder).call("text", text=words))
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        assert "params/image/projection/out/kernel" in file.keys()  # noqa: SIM118
        assert "batch_size" in file.metadata()["experiment"]


def test_what_cannot_be_loaded_is_one_sentence(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no run in runs/align-small: .* train it there"):
        mmrep.load("align")
    with pytest.raises(DataError, match=r"no file .*none\.safetensors"):
        mmrep.load(tmp_path / "none.safetensors")
    path = run[1].save(tmp_path / "cut.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"cut\.safetensors is not a whole safetensors file"):
        mmrep.load(path)
    with pytest.raises(ConfigError, match=r"no infer function 'txt' \(did you mean 'text'\?\)"):
        mmrep.load(run[0]).call("txt", text=["a"])


def test_a_checkpoint_of_another_tree_is_refused(tmp_path):
    loop.train(toy.experiment(2), tmp_path / "run", progress=False)
    config = (tmp_path / "run" / "config.json").read_text().replace('"width": 4', '"width": 6')
    (tmp_path / "run" / "config.json").write_text(config)
    with pytest.raises(DataError, match="cannot be restored into this config"):
        mmrep.load(tmp_path / "run")


def test_a_folder_of_the_hub(tmp_path, monkeypatch):
    folder = tiny_weights.vit_folder(tmp_path / "vit")
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, "*.safetensors" in allow_patterns))
        if name == "org/none":
            raise OSError("no network\nmore")
        return str(folder)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    assert mmrep.load("hf-hub:org/vit").data.modalities[0].shape == (32, 32, 3) and asked == [("org/vit", True)]
    with pytest.raises(DataError, match=r"hf-hub:org/none cannot be downloaded \(no network\): without a network"):
        mmrep.load("hf-hub:org/none")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="needs huggingface_hub"):
        mmrep.load("hf-hub:org/vit")
