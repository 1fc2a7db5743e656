"""The command over a run of a few steps."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from experiments import _cli, generate
from mmrep.errors import ConfigError
from mmrep.modality import EOS
from mmrep.systems.masked.fourm import panels as any_to_any
from mmrep.training.loop import train
from mmrep.training.restore import restore

pytestmark = pytest.mark.slow  # its fixture trains 4M


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fourm")
    config = dataclasses.replace(_cli.experiment("fourm", "tiny"), evals=())
    train(config, folder, progress=False, meta={"slug": "fourm", "size": "tiny"})
    return folder


def call(run_command, run, *args):
    return run_command("generate", "fourm", "--size", "tiny", "--workdir", str(run), *args)


def test_images_are_generated_from_a_caption(run, run_command, tmp_path):
    args = (
        "--targets",
        "semseg,rgb",
        "--decoding-steps",
        "2",
        "--samples",
        "2",
        "--out",
        str(tmp_path),
        "--guidance",
        "2",
    )
    code, out, _ = call(run_command, run, "--given", "caption=a big red circle", *args)
    assert code == 0 and len(out.splitlines()) == 4
    made = {p.name: np.asarray(Image.open(p)) for p in tmp_path.iterdir()}
    assert set(made) == {"semseg-0.png", "semseg-1.png", "rgb-0.png", "rgb-1.png"}
    assert all(x.shape == (256, 256, 3) and len(np.unique(x.reshape(-1, 3), axis=0)) <= 16 for x in made.values())


def test_an_image_file_is_captioned(run, run_command, tmp_path):
    Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(tmp_path / "grey.png")
    code, out, _ = call(
        run_command, run, "--given", f"pixels={tmp_path / 'grey.png'}", "--targets", "caption", "--out", str(tmp_path)
    )
    assert code == 0 and out.startswith("caption: ") and (tmp_path / "caption-0.txt").read_text().strip()


def test_a_text_may_be_open_ended(run):
    model = restore(run)
    sentinel = model.tokens().modality("caption").sentinel
    whole, more = (generate.read_given(model, [f"caption=a big{end}"])["caption"] for end in ("", " ..."))
    end = int((whole == EOS).argmax())
    np.testing.assert_array_equal(more[: end + 2], [*whole[:end], sentinel, EOS])


def test_generation_without_conditions(run, run_command, tmp_path):
    code, out, _ = call(run_command, run, "--targets", "semseg", "--decoding-steps", "1", "--out", str(tmp_path))
    assert code == 0 and out.split() == [str(tmp_path / "semseg-0.png")]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--targets", "rbg"), "did you mean 'rgb'"), (("--given", "captoin=x", "--targets", "rgb"), "did you mean 'caption'"),
        (("--given", "rgb=none.png", "--targets", "depth"), "no image file"), (("--given", "rgb=test:999", "--targets", "depth"), "24 records"),
        (("--given", "rgb=test:0", "--targets", "rgb"), "leave one out"), (("--targets", "rgb", "--samples", "0"), "--samples"),
        (("--targets", "rgb", "--scale", "depth=2"), "not given"), (("--targets", "rgb", "--temperature-schedule", "onex:2"), "onex:END:POWER"),
    ],
)  # fmt: skip
def test_what_cannot_be_generated_is_one_sentence(run, run_command, args, says):
    code, _, err = call(run_command, run, *args)
    assert code == 2 and says in err and err.startswith("error: ")


def test_a_scale_of_its_own_makes_a_separate_condition():
    assert generate.weights(["rgb=3", "depth=-0.5"], {"rgb": 0, "depth": 0}) == {"rgb": 3.0, "depth": -0.5}
    with pytest.raises(ConfigError, match="NAME=SCALE"):
        generate.weights(["rgb=much"], {"rgb": 0})


def test_the_report_shows_every_modality_from_every_other(run):
    found = any_to_any.panels(restore(run), examples=1)
    matrix, chains = found
    assert matrix.columns == ["given", "rgb", "depth", "normals", "semseg", "caption"] and len(matrix.cells) == 6
    assert matrix.rows[0] == "pixels"
    assert chains.rows[-1] == "truth" and len(chains.cells) == 1 + len(any_to_any.SCALES)
