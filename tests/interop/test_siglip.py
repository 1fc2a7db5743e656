"""SigLIP's weights against the numbers of transformers, which wrote them (the golden file says with which version)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import mmrep
from mmrep.errors import DataError
from mmrep.interop import names, siglip

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "siglip.npz")


def weights():
    start = "weights/"
    return {
        k.removeprefix(start): np.array(GOLDEN[k], np.float32, order="C") for k in GOLDEN.files if k.startswith(start)
    }


def big_vision(sd, heads=2):
    """Arrays of a Hugging Face SigLIP under big_vision's names and in its layout."""
    out = {
        "params/t": sd["logit_scale"].reshape(1),
        "params/b": sd["logit_bias"].reshape(1),
        "params/txt/Embed_0/embedding": sd["text_model.embeddings.token_embedding.weight"],
    }

    def dense(theirs, name):
        out[f"{name}/kernel"], out[f"{name}/bias"] = sd[f"{theirs}.weight"].T, sd[f"{theirs}.bias"]

    def norm(theirs, name):
        out[f"{name}/scale"], out[f"{name}/bias"] = sd[f"{theirs}.weight"], sd[f"{theirs}.bias"]

    def attention(q, k, v, o, name):
        for part, (w, b) in zip(("query", "key", "value"), (q, k, v)):
            out[f"{name}/{part}/kernel"], out[f"{name}/{part}/bias"] = (
                w.T.reshape(w.shape[1], heads, -1),
                b.reshape(heads, -1),
            )
        out[f"{name}/out/kernel"], out[f"{name}/out/bias"] = (
            sd[f"{o}.weight"].T.reshape(heads, -1, len(sd[f"{o}.weight"])),
            sd[f"{o}.bias"],
        )

    for side, start, stack in (
        ("vision_model", "params/img/", "Transformer"),
        ("text_model", "params/txt/", "Encoder_0"),
    ):
        rows = sd[f"{side}.embeddings.position_embedding.weight"]
        out[f"{start}pos_embedding"] = rows[None]
        for i in range(2):
            block, name = f"{side}.encoder.layers.{i}", f"{start}{stack}/encoderblock_{i}"
            norm(f"{block}.layer_norm1", f"{name}/LayerNorm_0"), norm(f"{block}.layer_norm2", f"{name}/LayerNorm_1")
            qkv = [(sd[f"{block}.self_attn.{k}_proj.weight"], sd[f"{block}.self_attn.{k}_proj.bias"]) for k in "qkv"]
            attention(*qkv, f"{block}.self_attn.out_proj", f"{name}/MultiHeadDotProductAttention_0")
            (
                dense(f"{block}.mlp.fc1", f"{name}/MlpBlock_0/Dense_0"),
                dense(f"{block}.mlp.fc2", f"{name}/MlpBlock_0/Dense_1"),
            )
        last = "post_layernorm" if side == "vision_model" else "final_layer_norm"
        norm(f"{side}.{last}", f"{start}{stack}/encoder_norm")
    image, head = "vision_model.embeddings.patch_embedding", "vision_model.head"
    out["params/img/embedding/kernel"], out["params/img/embedding/bias"] = (
        sd[f"{image}.weight"].transpose(2, 3, 1, 0),
        sd[f"{image}.bias"],
    )
    out["params/img/MAPHead_0/probe"] = sd[f"{head}.probe"]
    pairs = list(
        zip(np.split(sd[f"{head}.attention.in_proj_weight"], 3), np.split(sd[f"{head}.attention.in_proj_bias"], 3))
    )
    attention(*pairs, f"{head}.attention.out_proj", "params/img/MAPHead_0/MultiHeadDotProductAttention_0")
    norm(f"{head}.layernorm", "params/img/MAPHead_0/LayerNorm_0")
    (
        dense(f"{head}.mlp.fc1", "params/img/MAPHead_0/MlpBlock_0/Dense_0"),
        dense(f"{head}.mlp.fc2", "params/img/MAPHead_0/MlpBlock_0/Dense_1"),
    )
    dense("text_model.head", "params/txt/head")
    return out


@pytest.mark.parametrize("form", ["hugging_face", "big_vision"])
def test_embeddings_and_logits_equal_the_library(form, tmp_path):
    if form == "hugging_face":
        save_file(weights(), tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(str(GOLDEN["config"]))
        model = mmrep.load(tmp_path)
    else:
        np.savez(tmp_path / "model.npz", **big_vision(weights()))
        model = mmrep.load(tmp_path / "model.npz")
    batch = {"image": GOLDEN["pixels"].astype(np.float32) / 2 + 0.5, "text": GOLDEN["ids"]}
    image, text = (np.asarray(model.infer(name, batch)) for name in ("image", "text"))
    np.testing.assert_allclose(image, GOLDEN["image"], atol=1e-4)
    np.testing.assert_allclose(text, GOLDEN["text"], atol=1e-4)
    scale, bias = np.exp(model.params["scale"]["log_scale"]), model.params["bias"]["bias"]
    np.testing.assert_allclose(scale * image @ text.T + bias, GOLDEN["logits"], atol=1e-4, rtol=1e-5)
    for name, encoder in (("image", model.experiment.system.image), ("text", model.experiment.system.text)):
        _, out = encoder.module(jnp.float32).apply({"params": model.params[name]["encoder"]}, batch[name])
        np.testing.assert_allclose(out["block00"], GOLDEN[f"{name}_block00"], atol=1e-4)
    pair = {"image": batch["image"][:3], "text": batch["text"][:3]}
    loss, _ = jax.jit(model.system.loss)(model.params, {}, pair, jax.random.key(0))
    logits = GOLDEN["logits"][:3, :3]
    expected = np.log1p(np.exp(-(2 * np.eye(3) - 1) * logits)).sum() / 3
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_names_go_both_ways_and_positions_are_interpolated(tmp_path):
    about = json.loads(str(GOLDEN["config"]))
    experiment, params = siglip.read(weights(), about)
    written = names.to_arrays(siglip.table(8, (0.5,) * 3, (0.5,) * 3), params)
    for name, value in weights().items():
        if "k_proj.bias" in name:
            continue
        value = value.copy()
        if name.endswith("in_proj_bias"):
            value[16:32] = 0
        np.testing.assert_allclose(written[name], value, atol=1e-5, err_msg=name)
    larger, _ = siglip.read(weights(), about | {"image_size_wanted": 48})
    assert larger.data.modalities[0].shape == (48, 48, 3) and experiment.data.modalities[0].resample == "bicubic"


def test_what_is_missing_is_one_sentence():
    with pytest.raises(DataError, match=r"SiglipModel without its config\.json"):
        siglip.read(weights(), {})
    about = json.loads(str(GOLDEN["config"]))
    about["text_config"]["hidden_act"] = "relu6"
    with pytest.raises(DataError, match=r"text_config\.hidden_act is 'relu6'"):
        siglip.read(weights(), about)
