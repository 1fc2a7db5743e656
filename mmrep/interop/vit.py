"""Vision Transformers: Hugging Face's ViT and DINOv2 (with registers), timm's names, and big_vision's and AugReg's .npz files.

The .npz files have the exact GELU here, as timm reads them; big_vision itself computes its tanh approximation.
Every dialect is brought to timm's names, and one table leads from there to our paths. Images enter our encoder as 2 x - 1 with x in [0, 1]:
their mean and standard deviation become a part of the patch embedding. A class token plus its position is one vector, LayerScale a part of the
layer before it, and key biases have no effect on a softmax.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmrep import modality
from mmrep.config import Experiment
from mmrep.errors import ConfigError, DataError
from mmrep.interop import names as n
from mmrep.interop import vision
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder

HALF = (0.5, 0.5, 0.5)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
QKV = ("query", "key", "value")
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
HEADS = {1280: 16, 1408: 16, 1664: 16}
"""Of timm's models by their width; the others have heads of 64 numbers."""

HUGGING_FACE = (
    (r"^(vit|dinov2|dinov2_with_registers|audio_spectrogram_transformer)\.", ""), (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^embeddings\.cls_token$", "cls_token"), (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.distillation_token$", "dist_token"), (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."), (r"^layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."), (r"\.layernorm_after\.", ".norm2."), (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."), (r"\.intermediate\.dense\.", ".mlp.fc1."), (r"(\d)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."), (r"\.mlp\.weights_out\.", ".mlp.fc2."), (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"^classifier\.layernorm\.", "head_norm."), (r"^classifier\.(dense\.)?", "head."),
)  # fmt: skip
BIG_VISION = (
    (r"^(opt/target/|params/)?(img/)?", ""), (r"^Transformer/encoderblock_(\d+)/", r"blocks/\1/"), (r"^(Transformer/posembed_input/)?pos_embedding$", "pos_embed"),
    (r"^Transformer/encoder_norm/", "norm/"), (r"/LayerNorm_0/", "/norm1/"), (r"/LayerNorm_[12]/", "/norm2/"),
    (r"^MAPHead_0/norm1/", "map/norm/"), (r"^MAPHead_0/", "map/"), (r"/MultiHeadDotProductAttention_\d/", "/attn/"),
    (r"/attn/out/", "/attn/proj/"), (r"/MlpBlock_\d/Dense_0/", "/mlp/fc1/"), (r"/MlpBlock_\d/Dense_1/", "/mlp/fc2/"), (r"^embedding/", "patch_embed/proj/"),
    (r"^cls$", "cls_token"), (r"/(scale|kernel)$", "/weight"), (r"/", "."),
)  # fmt: skip


def table(encoder: ImageEncoder, mean: Sequence[float], std: Sequence[float]) -> tuple[n.Row, ...]:
    """timm's names, but for positions (those of the patches) and the class token (with its own), <-> our paths."""
    gated = encoder.transformer.activation == "swiglu"
    up = tuple(("mlp/up", "mlp/gate") if gated else ("mlp/up",))
    block = (
        *n.norm("norm1", "norm_attn"), *n.norm("norm2", "norm_mlp"), *n.dense("attn.proj", "attn/out"), *n.dense("mlp.fc2", "mlp/down"),
        *n.dense("attn.query", "attn/query"), *n.dense("attn.value", "attn/value"),
        n.Row("attn.key.weight", "attn/key/kernel", n.DENSE), n.unused("attn.key.bias"),
        *(n.fused("mlp.fc1", "mlp", ("up", "gate")) if gated else n.dense("mlp.fc1", up[0])),
    )  # fmt: skip
    ours = "encoder/transformer/block{i:02d}"
    pool = (
        n.Row("map.probe", "encoder/pool/probe"), *n.dense("map.attn.query", "encoder/pool/attn/query"), *n.dense("map.attn.value", "encoder/pool/attn/value"),
        n.Row("map.attn.key.weight", "encoder/pool/attn/key/kernel", n.DENSE), n.unused("map.attn.key.bias"),
        *n.dense("map.attn.proj", "encoder/pool/attn/out"), *n.norm("map.norm", "encoder/pool/norm"),
        *n.dense("map.mlp.fc1", "encoder/pool/mlp/up"), *n.dense("map.mlp.fc2", "encoder/pool/mlp/down"),
    )  # fmt: skip
    return (
        n.Row(("patch_embed.proj.weight", "patch_embed.proj.bias"), ("encoder/embed/kernel", "encoder/embed/bias"), folded(encoder.patch, mean, std)),
        n.Row("cls_token", "encoder/cls"), n.Row("reg_token", "encoder/registers"), n.Row("pos_embed", "encoder/positions/embedding"),
        *(row._replace(theirs=tuple(f"blocks.{{i}}.{t}" for t in _tuple(row.theirs)), ours=tuple(f"{ours}/{o}" for o in _tuple(row.ours))) for row in block),
        *n.norm("norm", "encoder/transformer/norm"), *pool, *n.dense("head", "head"),
    )  # fmt: skip


def paths(row: n.Row) -> tuple[str, ...]:
    """Our paths of a row."""
    return _tuple(row.ours)


def _tuple(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def folded(patch: int, mean: Sequence[float], std: Sequence[float]) -> n.Layout:
    """Weight and bias of their patch embedding of (x - mean) / std <-> kernel and bias of ours, of 2 x - 1."""
    order = n.patches(patch, 3)
    m, s = (np.tile(np.asarray(v, np.float64), patch * patch)[:, None] for v in (mean, std))

    def read(arrays: list[np.ndarray]) -> list[Any]:
        kernel = order.read([arrays[0]])[0] / (2 * s)
        return [kernel, arrays[1] + (kernel * (1 - 2 * m)).sum(0)]

    def write(arrays: list[Any]) -> list[Any]:
        kernel, bias = arrays
        weight = order.write([(kernel * (2 * s)).astype(np.float32)])[0]
        return [weight, (bias - (kernel * (1 - 2 * m)).sum(0)).astype(np.float32)]

    return n.Layout(read, write)


def read(arrays: n.Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """A Vision Transformer as an experiment with its parameters, with its classifier where it has one; None for other models.

    Positions are interpolated where about["image_size"] (of `mmrep.load`), or the preprocessing of the folder, is of another size than the
    file's.   Raises DataError for a setting that is not supported, and for arrays that do not fit.
    """
    kind = str(about.get("model_type", ""))
    theirs, pixels = about.get("pretrained_cfg") or {}, about.get("preprocessor") or {}
    if kind in ("vit", "dinov2", "dinov2_with_registers"):
        bare = renamed(arrays, HUGGING_FACE)
        heads, epsilon, act = (
            about["num_attention_heads"],
            about.get("layer_norm_eps", 1e-12),
            about.get("hidden_act", "gelu"),
        )
        if kind != "vit":
            bare = {k: v for k, v in bare.items() if not k.startswith("head.")}  # over two pooled vectors
        normal = (
            pixels.get("image_mean") or (HALF if kind == "vit" else IMAGENET[0]),
            pixels.get("image_std") or (HALF if kind == "vit" else IMAGENET[1]),
        )
        method = "antialias" if kind == "dinov2_with_registers" else "bicubic"
    elif {"patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight", "norm.weight"} <= {*arrays}:
        bare = split_qkv(arrays)
        width = len(arrays["norm.weight"])
        heads, epsilon, act = HEADS.get(width, max(1, width // 64)), 1e-6, "gelu"
        heads = (about.get("model_args") or {}).get("num_heads", heads)
        if about.get("global_pool", "token") != "token":
            raise DataError(
                f"config.json has global_pool {about['global_pool']!r}: only 'token' is supported for timm's names"
            )
        normal, method = (theirs.get("mean") or HALF, theirs.get("std") or HALF), "antialias"
    else:
        found = of_big_vision(arrays)
        if found is None:
            return None
        (bare, heads), epsilon, act = found, 1e-6, "gelu"
        normal, method = (HALF, HALF), "bicubic"
    if act not in ACTIVATIONS:
        raise DataError(f"config.json has hidden_act {act!r}: only {', '.join(ACTIVATIONS)} are supported")
    bare = {
        k: v
        for k, v in bare.items()
        if not k.startswith(("pooler.", "embeddings.mask_token", "mask_token", "decoder."))
    }
    gated = bool(about.get("use_swiglu_ffn")) or "swiglu" in str(about.get("architecture"))
    transformer = config(bare, heads, epsilon, "swiglu" if gated else ACTIVATIONS[act])
    patch = bare["patch_embed.proj.weight"].shape[-1]
    size = int(
        about.get("image_size_wanted")
        or _cut(pixels)
        or (theirs.get("input_size") or [0])[-1]
        or about.get("image_size")
        or 0
    )
    bare = positioned(bare, size // patch, method)
    bare |= {"patch_embed.proj.bias": bare.get("patch_embed.proj.bias", np.zeros(transformer.width, np.float32))}
    pool: Any = "map" if "map.probe" in bare else "cls" if "cls_token" in bare else "mean"
    registers = bare["reg_token"].shape[1] if "reg_token" in bare else 0
    encoder = ImageEncoder(transformer, patch, pool, registers=registers)
    classes = len(bare["head.weight"]) if "head.weight" in bare else 0
    rows = table(encoder, *normal)
    return vision.experiment(
        vision.Config(encoder, classes), picture(pixels, theirs, patch, len(bare["pos_embed"])), rows, bare
    )


def config(bare: n.Arrays, heads: int, epsilon: float, activation: str) -> TransformerConfig:
    """The transformer of arrays under timm's names."""
    hidden, width = bare["blocks.0.mlp.fc1.weight"].shape
    return TransformerConfig(
        width, n.count(bare, "blocks.{i}.norm1.weight"), heads, mlp_dim=hidden // 2 if activation == "swiglu" else hidden,
        epsilon=epsilon, activation=activation,  # type: ignore[arg-type]
    )  # fmt: skip


def renamed(arrays: n.Arrays, rules: Sequence[tuple[str, str]]) -> dict[str, np.ndarray]:
    """Arrays under other names, with LayerScale as a part of the layer before it."""
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        found[name] = np.asarray(array)
    return _unscaled(found)


def split_qkv(arrays: n.Arrays) -> dict[str, np.ndarray]:
    """timm's arrays with queries, keys and values apart."""
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        parts = np.split(np.asarray(array), 3) if ".qkv." in name else None
        found |= (
            {name.replace(".qkv.", f".{k}."): a for k, a in zip(QKV, parts)} if parts else {name: np.asarray(array)}
        )
    return _unscaled(found)


def _unscaled(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for name in [k for k in arrays if re.search(r"\.ls[12]\.gamma$", k)]:
        gamma, start = arrays.pop(name), name[: -len("ls1.gamma")]
        layer = f"{start}attn.proj" if "ls1" in name else f"{start}mlp.fc2"
        arrays[f"{layer}.weight"] = arrays[f"{layer}.weight"] * gamma[:, None]
        arrays[f"{layer}.bias"] = arrays[f"{layer}.bias"] * gamma
    return arrays


def of_big_vision(arrays: n.Arrays) -> tuple[dict[str, np.ndarray], int] | None:
    """(arrays in timm's names and PyTorch's layout, attention heads) of a file of big_vision or AugReg; None for other files."""
    if not any(re.search(r"(^|/)embedding/kernel$", k) for k in arrays) or not any(
        "Transformer/encoderblock" in k for k in arrays
    ):
        return None
    single: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        # Scanned blocks are stacked.
        head, stacked, tail = name.partition("Transformer/encoderblock/")
        single |= (
            {f"{head}Transformer/encoderblock_{i}/{tail}": a for i, a in enumerate(array)} if stacked else {name: array}
        )
    found: dict[str, np.ndarray] = {}
    heads = 1
    for name, array in single.items():
        for pattern, new in BIG_VISION:
            name = re.sub(pattern, new, name)
        array = np.asarray(array, np.float32)
        if name.endswith("attn.query.weight"):
            heads = array.shape[1]
        if re.search(r"attn\.(query|key|value)\.(weight|bias)$", name):
            array = array.reshape(-1) if name.endswith("bias") else array.reshape(len(array), -1).T
        elif name.endswith("attn.proj.weight"):
            array = array.reshape(-1, array.shape[-1]).T
        elif array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        elif array.ndim == 2 and name.endswith("weight"):
            array = array.T
        found[name] = array
    if any(k.startswith("pre_logits") for k in found):
        raise DataError("the file has an array 'pre_logits', a layer before the classifier, which is not supported")
    return {k: v for k, v in found.items() if k not in ("t", "b")}, heads


def positioned(bare: Mapping[str, np.ndarray], side: int, method: str) -> dict[str, np.ndarray]:
    """Arrays whose pos_embed is that of the patches of a grid of `side` (0: the file's), and whose class token has its own position."""
    rows = np.asarray(bare["pos_embed"], np.float32).reshape(-1, bare["pos_embed"].shape[-1])
    old = math.isqrt(len(rows))
    extra = len(rows) - old * old
    if extra == 1 and "cls_token" in bare:
        bare = {**bare, "cls_token": bare["cls_token"] + rows[:1]}
    elif extra:
        raise DataError(f"pos_embed has {len(rows)} rows: neither a square grid of patches, nor one and a class token")
    grid = rows[extra:].reshape(old, old, -1)
    grid = grid if side in (0, old) else resized(grid, side, side, antialias=method == "antialias")
    return {**bare, "pos_embed": grid.reshape(-1, grid.shape[-1])}


def resized(grid: np.ndarray, rows: int, columns: int, antialias: bool) -> np.ndarray:
    """A grid [H, W, D] of positions interpolated to another size as PyTorch does it: bicubic (a = -0.75; with antialias -0.5), centres of
    cells on centres of cells."""
    for axis, size in ((0, rows), (1, columns)):
        grid = np.moveaxis(np.tensordot(_weights(grid.shape[axis], size, antialias), grid, (1, axis)), 0, axis)
    return grid.astype(np.float32)


def _weights(old: int, new: int, antialias: bool) -> np.ndarray:
    a = -0.5 if antialias else -0.75
    scale = old / new
    stretch = max(scale, 1.0) if antialias else 1.0
    centre = (np.arange(new) + 0.5) * scale - 0.5
    found = np.zeros((new, old))
    for i, c in enumerate(centre):
        near = np.arange(math.floor(c - 2 * stretch), math.ceil(c + 2 * stretch) + 1)
        x = np.abs(near - c) / stretch
        inner, outer = ((a + 2) * x - (a + 3)) * x * x + 1, ((x - 5) * x + 8) * x * a - 4 * a
        weight = np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))
        if antialias:
            # Beyond the edge there is nothing; without antialias the edge is repeated.
            weight = np.where((near >= 0) & (near < old), weight, 0.0)
            weight = weight / weight.sum()
        np.add.at(found[i], np.clip(near, 0, old - 1), weight)
    return found


def _cut(pixels: Mapping[str, Any]) -> int:
    """The side of a picture behind a preprocessing file's last step; 0 where it does not state one."""
    size = (pixels.get("crop_size") if pixels.get("do_center_crop") else None) or pixels.get("size") or 0
    if isinstance(size, Mapping):
        return int(size.get("height") or size.get("shortest_edge") or 0)
    return int(size)


def picture(pixels: Mapping[str, Any], theirs: Mapping[str, Any], patch: int, places: int) -> modality.Modality:
    """The modality "image" of a preprocessing file of Hugging Face or of timm's settings, for a square grid of `places` patches."""
    side = math.isqrt(places) * patch
    how: Any = "bilinear" if pixels.get("resample", 2) == 2 else "bicubic"
    if pixels.get("resample", 2) not in (2, 3):
        raise DataError(
            f"preprocessor_config.json has resample {pixels['resample']}: only 2 (bilinear) and 3 (bicubic) are supported"
        )
    if theirs:
        short = math.floor(side / (theirs.get("crop_pct") or 0.875))
        how = "bilinear" if theirs.get("interpolation") == "bilinear" else "bicubic"
        return modality.image("image", side, patch=patch, crop=True, short=short if short > side else 0, resample=how)
    crop = bool(pixels.get("do_center_crop"))
    size = pixels.get("size")
    short = int(size.get("shortest_edge") or 0) if isinstance(size, Mapping) else int(size or 0)
    return modality.image(
        "image", side, patch=patch, crop=crop, short=short if crop and short > side else 0, resample=how
    )


WRITTEN = (
    (r"^blocks\.(\d+)\.", r"vit.encoder.layer.\1."), (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."), (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.norm1\.", ".layernorm_before."), (r"\.norm2\.", ".layernorm_after."), (r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^norm\.", "vit.layernorm."), (r"^head\.", "classifier."), (r"^cls_token$", "vit.embeddings.cls_token"),
    (r"^pos_embed$", "vit.embeddings.position_embeddings"), (r"^patch_embed\.proj\.", "vit.embeddings.patch_embeddings.projection."),
)  # fmt: skip
"""timm's names -> those of Hugging Face's ViTForImageClassification."""


def write(
    experiment: Experiment, params: Mapping[str, Any], form: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """(arrays, {JSON file: its entries}) of a Vision Transformer for Hugging Face's ViT; None for other systems and formats.

    Raises ConfigError for an encoder that has no such form.
    """
    config = experiment.system
    if form != "hf" or not isinstance(config, vision.Config) or not isinstance(config.image, ImageEncoder):
        return None
    image, t = config.image, config.image.transformer
    acts = {v: k for k, v in reversed(ACTIVATIONS.items())}
    if (
        image.pool != "cls"
        or image.registers
        or image.pre_norm
        or t.norm != "pre"
        or t.scan
        or t.activation not in acts
    ):
        raise ConfigError(
            f"the format 'hf' has a ViT with a class token, without registers, with unscanned pre-norm blocks and one of {', '.join(acts)}"
        )
    bare = n.to_arrays(table(image, HALF, HALF), params)
    bare |= {f"blocks.{i}.attn.key.bias": np.zeros(t.width, np.float32) for i in range(t.depth)}
    # Our class token holds its position.
    bare["pos_embed"] = np.concatenate([np.zeros((1, t.width), np.float32), bare["pos_embed"]])[None]
    arrays = {}
    for name, array in bare.items():
        for pattern, new in WRITTEN:
            name = re.sub(pattern, new, name)
        arrays[name if config.classes else name.removeprefix("vit.")] = array
    (m,) = [m for m in experiment.data.modalities if m.kind == "image"]
    about = {
        "architectures": ["ViTForImageClassification" if config.classes else "ViTModel"], "model_type": "vit", "hidden_size": t.width,
        "num_hidden_layers": t.depth, "num_attention_heads": t.heads, "intermediate_size": t.hidden, "hidden_act": acts[t.activation],
        "layer_norm_eps": t.epsilon, "image_size": m.size[0], "patch_size": image.patch, "qkv_bias": True,
    }  # fmt: skip
    if config.classes:
        about["id2label"] = {str(i): f"LABEL_{i}" for i in range(config.classes)}
    side = {"height": m.size[0], "width": m.size[1]}
    pixels = {
        "do_resize": True, "resample": 2 if m.resample == "bilinear" else 3, "do_rescale": True, "do_normalize": True, "image_mean": HALF,
        "image_std": HALF, "size": {"shortest_edge": m.short or m.size[0]} if m.crop else side,
        "image_processor_type": "CLIPImageProcessor" if m.crop else "ViTImageProcessor",
    } | ({"do_center_crop": True, "crop_size": side} if m.crop else {})  # fmt: skip
    return arrays, {"config.json": about, "preprocessor_config.json": pixels}
