"""The language of name maps: both directions, every size checked, and files of others recognised by their names."""

import json

import numpy as np
import pytest

from mmrep.errors import ConfigError, DataError
from mmrep.interop import foreign, names
from mmrep.interop.names import (
    CONV,
    DENSE,
    STACK,
    Row,
    chain,
    channels_last,
    chosen,
    dense,
    fused,
    leading,
    norm,
    padded,
    patches,
    split,
    to_arrays,
    to_params,
    unused,
    within,
    zero,
)  # fmt: skip

RNG = np.random.default_rng(0)
BLOCK = (
    *norm("ln", "norm"),
    *fused("attn.qkv", "attn", ("query", "key", "value")),
    *dense("mlp", "mlp"),
    zero("attn/out/bias"),
)
TABLE = (
    Row("cls", "cls", leading(2)),
    Row(("a.type", "b.type"), "types", chain(leading(1), STACK)),
    *within("layers.{i}", "encoder/block{i:02d}", BLOCK),
    Row("words", "embed/embedding", padded()),
    Row("logits", "embed/embedding", tied=True),
    unused("{name}.pos", "layers.{i}.step"),
)


def spec(depth=2):
    block = {
        "norm/scale": (4,), "norm/bias": (4,), "mlp/kernel": (4, 6), "mlp/bias": (6,), "attn/out/bias": (4,),
        "attn/query/kernel": (4, 4), "attn/key/kernel": (4, 4), "attn/value/kernel": (4, 4), "attn/query/bias": (4,), "attn/value/bias": (4,),
    }  # fmt: skip
    blocks = {f"encoder/block{i:02d}/{k}": v for i in range(depth) for k, v in block.items()}
    return {"cls": (4,), "types": (2, 4), "embed/embedding": (5, 4)} | blocks


def file(depth=2):
    shapes = {"cls": (1, 1, 4), "a.type": (1, 4), "b.type": (1, 4), "words": (5, 4)}
    for i in range(depth):
        shapes |= {f"layers.{i}.ln.weight": (4,), f"layers.{i}.ln.bias": (4,), f"layers.{i}.attn.qkv.weight": (12, 4)}
        shapes |= {f"layers.{i}.attn.qkv.bias": (12,), f"layers.{i}.mlp.weight": (6, 4), f"layers.{i}.mlp.bias": (6,)}
    return {k: RNG.standard_normal(s).astype(np.float32) for k, s in shapes.items()}


def test_a_table_serves_both_directions_and_every_depth():
    for depth in (1, 3):
        theirs = file(depth)
        params = to_params(TABLE, theirs | {"x.pos": np.ones(3), "layers.0.step": np.ones(())}, spec(depth))
        assert params["cls"].shape == (4,) and not params["encoder"]["block00"]["attn"]["out"]["bias"].any()
        np.testing.assert_array_equal(params["types"][1], theirs["b.type"][0])
        _, k, _ = np.split(theirs["layers.0.attn.qkv.weight"], 3)
        np.testing.assert_array_equal(params["encoder"]["block00"]["attn"]["key"]["kernel"], k.T)
        back = to_arrays(TABLE, params)
        assert {*back} == {*theirs} | {"logits"}
        for name, value in theirs.items():
            # Our model has no key bias.
            expected = np.where((np.arange(12) // 4) == 1, 0, value) if name.endswith("qkv.bias") else value
            np.testing.assert_array_equal(back[name], expected, err_msg=name)


def test_scanned_blocks_are_stacked_and_written_one_by_one():
    theirs, looped = file(2), spec(2)
    scanned = {k.replace("block00", "blocks"): v for k, v in looped.items() if "block01" not in k}
    scanned = {k: (2, *v) if "/blocks/" in k else v for k, v in scanned.items()}
    params = to_params(TABLE, theirs, scanned)
    one_by_one = to_params(TABLE, theirs, looped)["encoder"]
    for i, block in enumerate(one_by_one.values()):
        np.testing.assert_array_equal(params["encoder"]["blocks"]["mlp"]["kernel"][i], block["mlp"]["kernel"])
    written, plain = to_arrays(TABLE, params), to_arrays(TABLE, to_params(TABLE, theirs, looped))
    assert {*written} == {*plain} and all(np.array_equal(written[k], plain[k]) for k in plain)


@pytest.mark.parametrize(
    ("layout", "theirs"),
    [
        (DENSE, (3, 2)), (CONV, (5, 3, 2, 2)), (CONV, (5, 3, 4)), (leading(2), (1, 1, 3)), (split(3), (6, 2)),
        (split(3, axis=-1), (2, 6)), (patches(2, 3), (5, 3, 2, 2)), (channels_last((2, 3)), (12, 5)), (channels_last((2, 3), (2, 1)), (16,)),
        (chain(split(2), DENSE), (6, 4)),
    ],
)  # fmt: skip
def test_every_layout_has_an_inverse(layout, theirs):
    array = RNG.standard_normal(theirs)
    (back,) = layout.write(layout.read([array]))
    np.testing.assert_array_equal(back, array)


def test_patches_are_the_convolution_of_the_authors():
    weight, image = RNG.standard_normal((5, 3, 2, 2)), RNG.standard_normal((4, 4, 3))
    (kernel,) = patches(2, 3).read([weight])
    (conv,) = CONV.read([weight])
    assert conv.shape == (2, 2, 3, 5)
    patch = image[2:4, :2]  # row, column, channel
    by_hand = np.einsum("ocij,ijc->o", weight, patch)
    np.testing.assert_allclose(patch.reshape(-1) @ kernel, by_hand)
    np.testing.assert_allclose(np.einsum("ijc,ijco->o", patch, conv), by_hand)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cls": None}, r"no array 'cls' \[1, 1, 4\] for cls"),
        ({"layers.1.mlp.weight": np.zeros((6, 5))}, r"'layers.1.mlp.weight' has shape \[6, 5\].*needs \[6, 4\]"),
        ({"words": np.zeros((7, 4))}, r"'words' has shape \[7, 4\].*needs \[5, 4\]"),
        ({"layers.2.ln.weight": np.zeros(4)}, r"1 arrays .* first is 'layers.2.ln.weight' \[4\]"),
        ({"logits": np.ones((5, 4))}, "logits should equal embed/embedding"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_sentence(change, says):
    theirs = {k: v for k, v in (file() | change).items() if v is not None}
    with pytest.raises(DataError, match=says) as error:
        to_params(TABLE, theirs, spec())
    assert "\n" not in str(error.value)


def test_a_row_of_padding_is_dropped_and_a_vocabulary_is_reordered():
    theirs = file()
    wider = np.concatenate([theirs["words"], np.ones((1, 4), np.float32)])
    np.testing.assert_array_equal(to_params(TABLE, theirs | {"words": wider}, spec())["embed"]["embedding"], wider[:5])
    order = np.array([4, 0, 2])
    found = to_params([Row("words", "words", chosen(order))], {"words": wider}, {"words": (3, 4)})
    np.testing.assert_array_equal(found["words"], wider[order])


def test_what_no_row_names_and_what_has_no_place_is_refused():
    with pytest.raises(ConfigError, match="no row for more"):
        to_params(TABLE, file(), spec() | {"more": (2,)})
    params = to_params(TABLE, file(), spec())
    params["encoder"]["block01"]["attn"]["out"]["bias"] += 1
    with pytest.raises(ConfigError, match="block01/attn/out/bias is not zero"):
        to_arrays(TABLE, params)
    with pytest.raises(ConfigError, match="no row for more"):
        to_arrays(TABLE, {"more": np.ones(2)})


def test_files_are_read_by_format_and_unknown_ones_are_nothing(tmp_path):
    from safetensors.numpy import save_file

    arrays = {"a": np.arange(4.0, dtype=np.float32), "b": np.ones((2, 2), np.float32)}
    np.savez(tmp_path / "x.npz", **arrays)
    folder = tmp_path / "sharded"
    folder.mkdir()
    for i, name in enumerate(arrays):
        save_file({name: arrays[name]}, folder / f"model-{i}.safetensors")
    (folder / "config.json").write_text(json.dumps({"heads": 3}))
    for path, about in ((tmp_path / "x.npz", {}), (folder, {"heads": 3})):
        found = foreign.read_arrays(path)
        assert found is not None and found[1] == about
        assert {k: v.tolist() for k, v in found[0].items()} == {k: v.tolist() for k, v in arrays.items()}
    assert foreign.read_foreign(tmp_path / "x.npz") is None  # no system's names
    assert foreign.read_foreign(tmp_path / "absent.npz") is None and foreign.read_foreign(tmp_path) is None
    (tmp_path / "broken.safetensors").write_bytes(b"\x00" * 20)
    (tmp_path / "broken.npz").write_bytes(b"no zip")
    for name in ("broken.safetensors", "broken.npz"):
        with pytest.raises(DataError, match=name):
            foreign.read_arrays(tmp_path / name)


def test_shapes_are_those_of_a_tree():
    assert names.shapes_of({"a": {"b": np.zeros((2, 3))}}) == {"a/b": (2, 3)} == names.shapes_of({"a/b": (2, 3)})
