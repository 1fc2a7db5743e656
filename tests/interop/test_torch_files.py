"""PyTorch's two file formats give the tensors that PyTorch saved, and nothing in a file is executed."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mmrep.errors import DataError
from mmrep.interop import foreign, torch_files

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = np.load(FOLDER / "torch_files.npz")


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_legacy.pth"])
def test_tensors_equal_those_that_were_saved(name):
    found, about = foreign.read_arrays(FOLDER / name)
    assert about == {} and {*found} == {*GOLDEN.files} - {"note"}
    for key, value in found.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, GOLDEN[key], err_msg=key)
    tree = torch_files.read(FOLDER / name)
    assert tree["epoch"] == 7 and isinstance(tree["args"], torch_files.Unknown)
    assert tree["model"]["module.ids"].dtype == np.int64


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_damaged_and_hostile_files_are_one_sentence(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps({"a": Evil()}, 2))
    with pytest.raises(DataError, match=r"x\.pth: it is not a file of PyTorch"):
        torch_files.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"a": Evil(), "n": 1}, 2))
    assert torch_files.read(path) == {"a": torch_files.Unknown(torch_files.Global("__builtin__", "exec")), "n": 1}
    for name in ("torch_zip.pth", "torch_legacy.pth"):
        whole = (FOLDER / name).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=r"x\.pth"):
            torch_files.read(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"save its state dict with safetensors"):
        torch_files.read(path)
