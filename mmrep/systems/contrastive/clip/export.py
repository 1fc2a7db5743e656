"""CLIP written for others: Hugging Face's `CLIPModel`, and open_clip."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmrep.config import Experiment, flatten, unflatten
from mmrep.errors import ConfigError, check_fields
from mmrep.interop import names as n
from mmrep.systems.contrastive.clip import Config
from mmrep.systems.contrastive.clip.weights import ACTIVATIONS, MEAN, STD, hf_table, table


def write(
    experiment: Experiment, params: Mapping[str, Any], form: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """(arrays, {JSON file: its entries}) of a CLIP for Hugging Face ("hf") or open_clip; None for other systems.

    Raises ConfigError for a model that has no such form.
    """
    config = experiment.system
    if not isinstance(config, Config):
        return None
    image, text = config.image, config.text
    acts = image.transformer.activation, text.transformer.activation
    known = ("quick_gelu", "gelu") if form == "open_clip" else tuple(ACTIVATIONS.values())
    check_fields(config, {
        "loss": (config.loss == "softmax", f"the format {form!r} has CLIP's loss alone"),
        "image": (image.pool == "cls" and image.pre_norm and image.positions == "learned" and not image.registers,
                  f"the format {form!r} has a class token, learned positions and a norm before the first block"),
        "text": (text.causal and text.pool == "eos" and text.eos is not None and (form == "hf" or text.eos == text.vocab - 1),
                 f"the format {form!r} pools a causal encoder at a token that ends a text, {'the greatest id' if form == 'open_clip' else 'text.eos'}"),
    })  # fmt: skip
    for side in (image.transformer, text.transformer):
        if (
            side.activation not in known
            or (form == "open_clip" and acts[0] != acts[1])
            or side.norm != "pre"
            or side.scan
        ):
            raise ConfigError(
                f"the format {form!r} has no such transformer: it has pre-norm, unscanned blocks with {', '.join(known)}"
            )
    (picture,) = [m for m in experiment.data.modalities if m.kind == "image"]
    params = _without_patch_bias(params)
    rows = table(image.patch) if form == "open_clip" else hf_table(image.patch)
    arrays = n.to_arrays(rows, params)
    sides = {"vision": image.transformer, "text": text.transformer}
    if form == "open_clip":
        cfg = {
            side: {"width": t.width, "layers": t.depth, "mlp_ratio": t.hidden / t.width} for side, t in sides.items()
        }
        vision = {"image_size": picture.size[0], "patch_size": image.patch, "head_width": image.transformer.key_dim}
        words = {"context_length": text.length, "vocab_size": text.vocab, "heads": text.transformer.heads}
        about = {
            "embed_dim": config.dim, "quick_gelu": acts[0] == "quick_gelu",
            "vision_cfg": cfg["vision"] | vision, "text_cfg": cfg["text"] | words,
        }  # fmt: skip
        cut_out = {"mean": MEAN, "std": STD, "interpolation": picture.resample, "resize_mode": "shortest"}
        return arrays, {"open_clip_config.json": {"model_cfg": about, "preprocess_cfg": cut_out}}
    for prefix, t in sides.items():
        for i in range(t.depth):
            arrays[f"{prefix}_model.encoder.layers.{i}.self_attn.k_proj.bias"] = np.zeros(t.width, np.float32)
    names = {v: k for k, v in reversed(ACTIVATIONS.items())}
    both = {
        f"{side}_config": {
            "hidden_size": t.width, "num_hidden_layers": t.depth, "num_attention_heads": t.heads, "intermediate_size": t.hidden,
            "hidden_act": names[t.activation], "layer_norm_eps": t.epsilon, "projection_dim": config.dim,
        } for side, t in sides.items()
    }  # fmt: skip
    both["vision_config"] |= {
        "image_size": picture.size[0],
        "patch_size": image.patch,
        "model_type": "clip_vision_model",
    }
    both["text_config"] |= {
        "vocab_size": text.vocab, "max_position_embeddings": text.length, "eos_token_id": text.eos, "model_type": "clip_text_model",
        "bos_token_id": max(0, text.vocab - 2), "pad_token_id": text.eos,
    }  # fmt: skip
    about = {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": config.dim, **both}
    cut = picture.size[0]
    pixels: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": picture.short or cut}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": cut, "width": cut}, "do_rescale": True, "do_normalize": True,
        "image_mean": MEAN, "image_std": STD, "do_convert_rgb": True,
    }  # fmt: skip
    return arrays, {"config.json": about, "preprocessor_config.json": pixels}


def _without_patch_bias(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same function, the bias of its patch embedding being that of CLIP's, which has none: the rest is added to every position."""
    flat = {k: np.asarray(v, np.float32) for k, v in flatten(params).items()}
    path = "image/encoder/embed"
    kernel = flat[f"{path}/kernel"].astype(np.float64)
    mean = np.tile(np.asarray(MEAN), len(kernel) // 3)[:, None]
    own = (kernel * (1 - 2 * mean)).sum(0)
    flat["image/encoder/positions/embedding"] = (
        flat["image/encoder/positions/embedding"] + flat[f"{path}/bias"] - own
    ).astype(np.float32)
    flat[f"{path}/bias"] = own.astype(np.float32)
    return unflatten(flat)
