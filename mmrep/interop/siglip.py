"""SigLIP (Zhai et al. 2023, arXiv 2303.15343): Hugging Face's `SiglipModel`, and big_vision's .npz files.

The image's embedding is its MAP head's vector, the text's a linear map, with bias, of the last of a fixed number of tokens.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, PRNGKeyArray

from mmrep import modality
from mmrep.config import Data, Experiment, Tokenizer
from mmrep.errors import DataError
from mmrep.interop import names as n
from mmrep.interop import vit
from mmrep.losses.contrastive import sigmoid_pairs
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import LogitBias, LogScale, l2_normalise
from mmrep.nn.pooling import layer_features
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless

LENGTH = 64


@dataclass(frozen=True)
class Config:
    """Both encoders over one space: the image's width is that of the text's linear map."""

    image: ImageEncoder = ImageEncoder(pool="map")
    text: TextEncoder = TextEncoder(pool="last")
    temperature: float = 0.1
    bias: float = -10.0

    def build(self) -> System:
        """infer: "image", "text" of unit length, "image_layers", "text_layers".   loss: equation 1, over all pairs of a batch."""
        modules: dict[str, Any] = {"image": self.image.module(jnp.float32), "text": self.text.module(jnp.float32)}
        project = nn.Dense(self.image.transformer.width)
        scale, bias = LogScale(1 / self.temperature, None), LogitBias(self.bias)

        def run(params: Params, batch: Batch, name: str) -> tuple[Array, dict[str, Array]]:
            pooled, out = modules[name].apply({"params": params[name]["encoder"]}, batch[name])
            if name == "text":
                pooled = project.apply({"params": params[name]["projection"]}, pooled)
            return l2_normalise(pooled), out

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            keys = jax.random.split(rng, 3)
            params: Params = {
                name: {"encoder": module.init(key, jnp.zeros_like(jnp.asarray(batch[name])))["params"]}
                for key, (name, module) in zip(keys, modules.items())
            }
            params["text"]["projection"] = project.init(keys[2], jnp.zeros((1, self.text.transformer.width)))["params"]
            return params | {"scale": scale.init(keys[2])["params"], "bias": bias.init(keys[2])["params"]}, {}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            x, y = (run(params, batch, name)[0] for name in ("image", "text"))
            values = (m.apply({"params": params[k]}) for k, m in (("scale", scale), ("bias", bias)))
            return sigmoid_pairs(x, y, *values).mean(), {"cosine": (x * y).sum(-1).mean()}

        def of(name: str) -> dict[str, Any]:
            return {
                name: lambda params, extras, batch: run(params, batch, name)[0],
                f"{name}_layers": lambda params, extras, batch: layer_features(run(params, batch, name)[1]),
            }

        return System(init, stateless(loss), of("image") | of("text"))


BLOCK = (
    *n.norm("layer_norm1", "norm_attn"), *n.norm("layer_norm2", "norm_mlp"), *n.dense("self_attn.out_proj", "attn/out"),
    *n.dense("mlp.fc1", "mlp/up"), *n.dense("mlp.fc2", "mlp/down"),
    *n.dense("self_attn.q_proj", "attn/query"), *n.dense("self_attn.v_proj", "attn/value"),
    n.Row("self_attn.k_proj.weight", "attn/key/kernel", n.DENSE), n.unused("self_attn.k_proj.bias"),
)  # fmt: skip


def table(patch: int, mean: Sequence[float], std: Sequence[float]) -> tuple[n.Row, ...]:
    """Hugging Face's names <-> our paths."""
    image, head = "vision_model.embeddings", "vision_model.head"
    qkv = tuple(f"image/encoder/pool/attn/{k}" for k in ("query", "key", "value"))
    unused = tuple(f"{side}_model.encoder.layers.{{i}}.self_attn.k_proj.bias" for side in ("vision", "text"))
    rows = [row for row in BLOCK if row.ours]
    return (
        n.Row((f"{image}.patch_embedding.weight", f"{image}.patch_embedding.bias"), ("image/encoder/embed/kernel", "image/encoder/embed/bias"), vit.folded(patch, mean, std)),
        n.Row(f"{image}.position_embedding.weight", "image/encoder/positions/embedding"),
        *n.within("vision_model.encoder.layers.{i}", "image/encoder/transformer/block{i:02d}", rows),
        *n.norm("vision_model.post_layernorm", "image/encoder/transformer/norm"),
        n.Row(f"{head}.probe", "image/encoder/pool/probe"),
        n.Row(f"{head}.attention.in_proj_weight", tuple(f"{k}/kernel" for k in qkv), n.chain(n.split(3), n.DENSE)),
        n.Row(f"{head}.attention.in_proj_bias", tuple(f"{k}/bias" for k in qkv), n.split(3)),
        *n.dense(f"{head}.attention.out_proj", "image/encoder/pool/attn/out"), *n.norm(f"{head}.layernorm", "image/encoder/pool/norm"),
        *n.dense(f"{head}.mlp.fc1", "image/encoder/pool/mlp/up"), *n.dense(f"{head}.mlp.fc2", "image/encoder/pool/mlp/down"),
        n.Row("text_model.embeddings.token_embedding.weight", "text/encoder/embed/embedding"),
        n.Row("text_model.embeddings.position_embedding.weight", "text/encoder/positions/embedding"),
        *n.within("text_model.encoder.layers.{i}", "text/encoder/transformer/block{i:02d}", rows),
        *n.norm("text_model.final_layer_norm", "text/encoder/transformer/norm"), *n.dense("text_model.head", "text/projection"),
        n.Row("logit_scale", "scale/log_scale", n.leading(1)), n.Row("logit_bias", "bias/bias", n.leading(1)),
        n.unused(*unused, "vision_model.embeddings.position_ids", "text_model.embeddings.position_ids"),
    )  # fmt: skip


def read(arrays: n.Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """A SigLIP as an experiment with its parameters; None for other models.

    Raises DataError where config.json is missing or has an activation that is not supported, and for arrays that do not fit.
    """
    heads, epsilon = {}, {}
    if any(re.search(r"(^|/)img/MAPHead_0/probe$", k) for k in arrays) and any(
        re.search(r"(^|/)txt/head/", k) for k in arrays
    ):
        arrays, head = of_big_vision(arrays)
        heads, epsilon = {"vision": head[0], "text": head[1]}, {"vision": 1e-6, "text": 1e-6}
    elif not {"vision_model.head.probe", "text_model.head.weight", "logit_bias"} <= {*arrays}:
        return None
    tower = {}
    for side in ("vision", "text"):
        if not heads and f"{side}_config" not in about:
            raise DataError(
                "the weights are a SiglipModel without its config.json, which has the number of heads: add it"
            )
        s = about.get(f"{side}_config") or {}
        act = s.get("hidden_act", "gelu_pytorch_tanh")
        if act not in vit.ACTIVATIONS:
            raise DataError(
                f"config.json: {side}_config.hidden_act is {act!r}: only {', '.join(vit.ACTIVATIONS)} are supported"
            )
        block = f"{side}_model.encoder.layers.{{i}}.mlp.fc1.weight"
        hidden, width = arrays[block.format(i=0)].shape
        tower[side] = TransformerConfig(
            width, n.count(arrays, block), heads.get(side) or s.get("num_attention_heads", 12), mlp_dim=hidden,
            epsilon=epsilon.get(side) or s.get("layer_norm_eps", 1e-6),
            activation=vit.ACTIVATIONS[act],  # type: ignore[arg-type]
        )  # fmt: skip
    vocab, length = (len(arrays[f"text_model.embeddings.{k}_embedding.weight"]) for k in ("token", "position"))
    patch = arrays["vision_model.embeddings.patch_embedding.weight"].shape[-1]
    pixels = about.get("preprocessor") or {"resample": 3 if "vision_config" in about else 2}
    wanted = int(about.get("image_size_wanted") or 0)
    key = "vision_model.embeddings.position_embedding.weight"
    arrays = {**arrays, key: vit.positioned({"pos_embed": arrays[key]}, wanted // patch, "bicubic")["pos_embed"]}
    image = ImageEncoder(tower["vision"], patch, "map")
    text = TextEncoder(tower["text"], vocab, length, pool="last")
    scale, bias = (float(np.asarray(arrays[k]).reshape(())) for k in ("logit_scale", "logit_bias"))
    config = Config(image, text, float(np.exp(-scale)), bias)
    parts = vit.picture(pixels, {}, patch, len(arrays[key])), modality.text("text", length, vocab)
    shapes = jax.eval_shape(config.build().init, jax.random.key(0), modality.example(parts, 1))[0]
    rows = table(patch, pixels.get("image_mean") or vit.HALF, pixels.get("image_std") or vit.HALF)
    data = Data(None, parts, Tokenizer(vocab, "published", lower=False))
    return Experiment(config, data), n.to_params(rows, arrays, shapes)


TOWER = (
    (r"^blocks\.(\d+)\.", r"encoder.layers.\1."), (r"\.norm1\.", ".layer_norm1."), (r"\.norm2\.", ".layer_norm2."),
    (r"\.attn\.query\.", ".self_attn.q_proj."), (r"\.attn\.key\.", ".self_attn.k_proj."), (r"\.attn\.value\.", ".self_attn.v_proj."),
    (r"\.attn\.proj\.", ".self_attn.out_proj."), (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^pos_embed$", "embeddings.position_embedding.weight"), (r"^map\.probe$", "head.probe"), (r"^map\.norm\.", "head.layernorm."),
    (r"^map\.self_attn\.out_proj\.", "head.attention.out_proj."), (r"^map\.mlp\.", "head.mlp."),
)  # fmt: skip
"""timm's names, to which big_vision's are brought, -> those of a tower of Hugging Face."""


def of_big_vision(arrays: n.Arrays) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
    """(arrays under Hugging Face's names, heads of the image and of the text encoder)."""
    bare = {re.sub(r"^(opt/target/|params/)", "", k): v for k, v in arrays.items()}
    text = {
        k.removeprefix("txt/").replace("Encoder_0/", "Transformer/"): v for k, v in bare.items() if k.startswith("txt/")
    }
    words = text.pop("Embed_0/embedding")
    # The text encoder has no patch embedding, by which such files are recognised.
    towers = [
        vit.of_big_vision({k: v for k, v in bare.items() if k.startswith("img/")}),
        vit.of_big_vision(text | {"embedding/kernel": np.zeros((1, 1, 1, 1), np.float32)}),
    ]
    found: dict[str, np.ndarray] = {"text_model.embeddings.token_embedding.weight": np.asarray(words)}
    for side, last, tower in zip(("vision", "text"), ("post_layernorm", "final_layer_norm"), towers):
        assert tower is not None
        parts = {k: v for k, v in tower[0].items() if side == "vision" or not k.startswith("patch_embed")}
        qkv = [
            (k, [parts.pop(f"map.attn.{p}.{k}") for p in vit.QKV])
            for k in ("weight", "bias")
            if f"map.attn.query.{k}" in parts
        ]
        found |= {f"{side}_model.head.attention.in_proj_{k}": np.concatenate(v) for k, v in qkv}
        for name, array in parts.items():
            for pattern, new in TOWER:
                name = re.sub(pattern, new, name)
            name = re.sub(r"^norm\.", f"{last}.", name)
            flat = name.endswith("position_embedding.weight")
            found[f"{side}_model.{name}"] = array.reshape(-1, array.shape[-1]) if flat else array
    for theirs, ours in (("t", "logit_scale"), ("b", "logit_bias")):
        found[ours] = np.asarray(bare[theirs], np.float32).reshape(1)
    return found, (towers[0][1], towers[1][1])  # type: ignore[index]
