"""CLIP weights of others: Hugging Face's `CLIPModel`, and the names of OpenAI's release, which open_clip shares.

Images enter our encoder as 2 x - 1 with x in [0, 1]; their mean and standard deviation are folded into the patch embedding. A class token
plus its position is one vector, ours. Key biases have no effect on softmax, and our attention has none.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmrep import modality
from mmrep.config import Data, Experiment, Tokenizer
from mmrep.errors import ConfigError, DataError, near
from mmrep.interop import names as n
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.clip import Config

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels, per channel, in OpenAI's release; a folder's own preprocessing file overrides them."""
ACTIVATIONS: dict[str, Any] = {
    "quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
}  # fmt: skip
HUGGING_FACE = ("vision_model.", "text_model.", "visual_projection.", "text_projection.weight", "logit_scale")
KNOWN = {
    "vision_cfg": ("image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "patch_dropout"),
    "text_cfg": ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"),
}
"""Options of open_clip's config that this reader knows; another one may change the model."""


def folded(patch: int, mean: Sequence[float], std: Sequence[float]) -> n.Layout:
    """The weight of their patch embedding of (x - mean) / std <-> kernel and bias of ours, of 2 x - 1."""
    order = n.patches(patch, 3)
    m, s = (np.tile(np.asarray(v, np.float64), patch * patch)[:, None] for v in (mean, std))

    def bias(kernel: np.ndarray) -> np.ndarray:
        return (kernel * (1 - 2 * m)).sum(0)

    def read(arrays: list[np.ndarray]) -> list[Any]:
        kernel = order.read(arrays)[0] / (2 * s)
        return [kernel, bias(kernel)]

    def write(arrays: list[Any]) -> list[Any]:
        kernel, ours = arrays
        if not np.allclose(bias(kernel), ours, atol=1e-4):
            raise ConfigError("the bias of the patch embedding was trained, and CLIP's format has none: save as mmrep")
        return order.write([(kernel * (2 * s)).astype(np.float32)])

    return n.Layout(read, write)


CLASS_TOKEN = n.Layout(
    lambda arrays: [(arrays[0] + arrays[1][0])[None, None], arrays[1][1:]],
    lambda arrays: [arrays[0][0, 0], np.concatenate([np.zeros_like(arrays[0][0]), arrays[1]])],
)
"""(class token, positions with its own first) <-> (their sum, positions of the patches)."""

BLOCK = (
    *n.norm("ln_1", "norm_attn"), *n.norm("ln_2", "norm_mlp"), *n.dense("attn.out_proj", "attn/out"),
    *n.dense("mlp.c_fc", "mlp/up"), *n.dense("mlp.c_proj", "mlp/down"),
    n.Row("attn.in_proj_weight", tuple(f"attn/{k}/kernel" for k in ("query", "key", "value")), n.chain(n.split(3), n.DENSE)),
    n.Row("attn.in_proj_bias", tuple(f"attn/{k}/bias" for k in ("query", "key", "value")), n.split(3)),
)  # fmt: skip
HF_BLOCK = (
    *n.norm("layer_norm1", "norm_attn"), *n.norm("layer_norm2", "norm_mlp"), *n.dense("self_attn.out_proj", "attn/out"),
    *n.dense("mlp.fc1", "mlp/up"), *n.dense("mlp.fc2", "mlp/down"),
    *(row for k in ("query", "key", "value") for row in n.dense(f"self_attn.{k[0]}_proj", f"attn/{k}")),
)  # fmt: skip


def table(patch: int, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> tuple[n.Row, ...]:
    """OpenAI's and open_clip's names <-> our paths."""
    return (
        n.Row("visual.conv1.weight", ("image/encoder/embed/kernel", "image/encoder/embed/bias"), folded(patch, mean, std)),
        n.Row(("visual.class_embedding", "visual.positional_embedding"), ("image/encoder/cls", "image/encoder/positions/embedding"), CLASS_TOKEN),
        *n.norm("visual.ln_pre", "image/encoder/pre_norm"), *n.norm("visual.ln_post", "image/encoder/transformer/norm"),
        *n.within("visual.transformer.resblocks.{i}", "image/encoder/transformer/block{i:02d}", BLOCK),
        n.Row("visual.proj", "image/projection/out/kernel"),
        n.Row("token_embedding.weight", "text/encoder/embed/embedding"),
        n.Row("positional_embedding", "text/encoder/positions/embedding"),
        *n.within("transformer.resblocks.{i}", "text/encoder/transformer/block{i:02d}", BLOCK),
        *n.norm("ln_final", "text/encoder/transformer/norm"),
        n.Row("text_projection", "text/projection/out/kernel"),
        n.Row("logit_scale", "scale/log_scale"),
        n.unused("input_resolution", "context_length", "vocab_size", "attn_mask"),
    )  # fmt: skip


def hf_table(patch: int, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> tuple[n.Row, ...]:
    """Hugging Face's names <-> our paths."""
    vision, text = "vision_model.embeddings", "text_model.embeddings"
    return (
        n.Row(f"{vision}.patch_embedding.weight", ("image/encoder/embed/kernel", "image/encoder/embed/bias"), folded(patch, mean, std)),
        n.Row((f"{vision}.class_embedding", f"{vision}.position_embedding.weight"), ("image/encoder/cls", "image/encoder/positions/embedding"), CLASS_TOKEN),
        *n.norm("vision_model.pre_layrnorm", "image/encoder/pre_norm"),
        *n.norm("vision_model.post_layernorm", "image/encoder/transformer/norm"),
        *n.within("vision_model.encoder.layers.{i}", "image/encoder/transformer/block{i:02d}", HF_BLOCK),
        n.Row("visual_projection.weight", "image/projection/out/kernel", n.DENSE),
        n.Row(f"{text}.token_embedding.weight", "text/encoder/embed/embedding"),
        n.Row(f"{text}.position_embedding.weight", "text/encoder/positions/embedding"),
        *n.within("text_model.encoder.layers.{i}", "text/encoder/transformer/block{i:02d}", HF_BLOCK),
        *n.norm("text_model.final_layer_norm", "text/encoder/transformer/norm"),
        n.Row("text_projection.weight", "text/projection/out/kernel", n.DENSE),
        n.Row("logit_scale", "scale/log_scale"),
        n.unused(f"{vision}.position_ids", f"{text}.position_ids"),
        *(n.unused(f"{side}_model.encoder.layers.{{i}}.self_attn.k_proj.bias") for side in ("vision", "text")),
    )  # fmt: skip


def read(weights: n.Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """A CLIP of either family of names as an experiment with its parameters; None for other files.

    Widths, depths, patch and image size are taken from the arrays; heads and activation from the config beside them.
    Raises DataError where that config is missing or has an option that our encoders lack.
    """
    if {"vision_model.embeddings.class_embedding", "visual_projection.weight", "text_projection.weight"} <= {*weights}:
        # A folder may hold the same model under open_clip's names, too.
        return _read_hf({k: v for k, v in weights.items() if k.startswith(HUGGING_FACE)}, about)
    if {"visual.class_embedding", "visual.conv1.weight", "text_projection", "positional_embedding"} <= {*weights}:
        return _read_openai(weights, about)
    return None


def _read_hf(weights: n.Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]]:
    if "vision_config" not in about and "vision_config_dict" not in about:
        raise DataError("the weights are a CLIPModel without its config.json, which has the number of heads: add it")
    tower, eos = {}, 0
    for side, heads in (("vision", 12), ("text", 8)):
        # The files leave out what equals the default of the library.
        s = {
            "num_attention_heads": heads, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49_407,
            **(about.get(f"{side}_config") or {}), **(about.get(f"{side}_config_dict") or {}),
        }  # fmt: skip
        eos, act, block = s["eos_token_id"], s["hidden_act"], f"{side}_model.encoder.layers.{{i}}.mlp.fc1.weight"
        if act not in ACTIVATIONS:
            raise DataError(f"config.json: {side}_config.hidden_act is {act!r}{near(act, ACTIVATIONS)}")
        hidden, width = weights[block.format(i=0)].shape
        tower[side] = TransformerConfig(
            width, n.count(weights, block), s["num_attention_heads"], mlp_dim=hidden,
            activation=ACTIVATIONS[act], epsilon=s["layer_norm_eps"],
        )  # fmt: skip
    vocab, length = (len(weights[f"text_model.embeddings.{k}_embedding.weight"]) for k in ("token", "position"))
    # 2 is a mistake of early configs, whose models pool at the largest id.
    text = TextEncoder(tower["text"], vocab, length, causal=True, pool="eos", eos=vocab - 1 if eos == 2 else eos)
    pixels = about.get("preprocessor") or {}
    normal = pixels.get("image_mean") or MEAN, pixels.get("image_std") or STD
    patch = weights["vision_model.embeddings.patch_embedding.weight"].shape[-1]
    positions = len(weights["vision_model.embeddings.position_embedding.weight"])
    rows, dim = hf_table(patch, *normal), len(weights["visual_projection.weight"])
    return _experiment(weights, rows, tower["vision"], text, patch, positions, dim)


def _read_openai(weights: n.Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]]:
    config = about.get("model_cfg")
    if config is None:
        if "input_resolution" not in weights:
            raise DataError(
                "CLIP's names without open_clip_config.json, which has heads and activation: put it beside them"
            )
        config = {"quick_gelu": True, "text_cfg": {"heads": weights["ln_final.weight"].shape[0] // 64}}
    for part, known in KNOWN.items():
        for key, value in (config.get(part) or {}).items():
            if value and key not in known:
                raise DataError(f"open_clip_config.json: model_cfg.{part}.{key} is {value!r}, which our encoders lack")
    activation: Any = "quick_gelu" if config.get("quick_gelu") else "gelu"
    vision, text = (config.get(part) or {} for part in KNOWN)
    tower = []
    for prefix in ("visual.", ""):
        block = f"{prefix}transformer.resblocks.{{i}}.mlp.c_fc.weight"
        hidden, width = weights[block.format(i=0)].shape
        heads = width // vision.get("head_width", 64) if prefix else text.get("heads", 8)
        tower += [TransformerConfig(width, n.count(weights, block), heads, mlp_dim=hidden, activation=activation)]
    vocab, length = len(weights["token_embedding.weight"]), len(weights["positional_embedding"])
    words = TextEncoder(tower[1], vocab, length, causal=True, pool="eos", eos=vocab - 1)
    pixels = about.get("preprocess_cfg") or {}
    patch = weights["visual.conv1.weight"].shape[-1]
    rows = table(patch, pixels.get("mean") or MEAN, pixels.get("std") or STD)
    positions, dim = len(weights["visual.positional_embedding"]), weights["text_projection"].shape[1]
    return _experiment(weights, rows, tower[0], words, patch, positions, dim)


def _experiment(
    weights: n.Arrays, rows: Sequence[n.Row], vision: TransformerConfig, text: TextEncoder, patch: int, positions: int,
    dim: int,
) -> tuple[Experiment, dict[str, Any]]:  # fmt: skip
    size = math.isqrt(positions - 1) * patch
    image = ImageEncoder(vision, patch=patch, pool="cls", pre_norm=True)
    scale = weights["logit_scale"].item()
    floor = 0.01 if scale < math.log(100) + 1e-3 else None
    system = Config(image, text, dim=dim, temperature=math.exp(-scale), min_temperature=floor)
    parts = modality.image("image", size, patch=patch, crop=True), modality.text("text", text.length, text.vocab)
    shapes = jax.eval_shape(system.build().init, jax.random.key(0), modality.example(parts, 1))[0]
    data = Data(None, parts, tokenizer=Tokenizer(text.vocab, "published"))
    return Experiment(system, data), n.to_params(rows, weights, shapes)
