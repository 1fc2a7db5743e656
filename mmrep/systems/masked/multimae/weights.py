"""The authors' MultiMAE weights (EPFL-VILAB/MultiMAE, entry "model" of a checkpoint) as mmrep parameters, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmrep import modality
from mmrep.config import Data, Experiment
from mmrep.interop import names as n
from mmrep.modality import Modality
from mmrep.nn import maps
from mmrep.nn.config import TransformerConfig
from mmrep.systems.masked.multimae import Config, Task, labels

MLP = (*n.dense("mlp.fc1", "mlp/up"), *n.dense("mlp.fc2", "mlp/down"))
BLOCK = (
    *n.norm("norm1", "norm_attn"),
    *n.fused("attn.qkv", "attn", ("query", "key", "value")),
    *n.dense("attn.proj", "attn/out"),
    *n.norm("norm2", "norm_mlp"),
    *MLP,
)
DECODER = (
    n.Row("mask_token", "mask_token", n.leading(2)),
    *n.dense("proj_context", "context"),
    *n.dense("decoder.q", "cross/query"),
    *n.fused("decoder.kv", "cross", ("key", "value")),
    *n.dense("decoder.proj", "cross/out"),
    *n.norm("query_norm", "norm_query"),
    *n.norm("context_norm", "norm_context"),
    *n.norm("out_norm", "norm_out"),
    *MLP,
    *n.within("decoder_transformer.{i}", "block{i:02d}", BLOCK),
)


def table(config: Config, outputs: Mapping[str, str] | None = None) -> tuple[n.Row, ...]:
    """Their names <-> our paths.   outputs: our decoder -> theirs, where the names differ; {"rgb_norm_mse": "norm_rgb"} is known.

    Their key biases have no counterpart in ours, since softmax is independent of them; their tables of fixed positions are not needed. Their
    code for segmentation adds an embedding for padded pixels behind those of the classes, which ours leaves at zero.
    """
    names = [m.name for m in config.maps]
    rows = [
        n.Row("global_tokens", "global/tokens", n.leading(1)),
        *n.within("encoder.{i}", "encoder/block{i:02d}", BLOCK),
    ]
    rows.append(n.unused("input_adapters.{name}.pos_emb", "output_adapters.{name}.pos_emb"))
    for m in config.maps:
        ours, theirs = f"in_{m.name}", f"input_adapters.{m.name}"
        if m.classes:
            rows.append(n.Row(f"{theirs}.class_emb.weight", f"{ours}/table", n.padded()))
        at = ours if m.classes else f"{ours}/embed"
        rows += [
            n.Row(
                f"{theirs}.proj.weight", f"{at}/kernel", n.patches(m.patch, m.class_dim if m.classes else m.channels)
            ),
            n.Row(f"{theirs}.proj.bias", f"{at}/bias"),
        ]
    for label, task in zip(labels(config.tasks), config.tasks):
        theirs, m = f"output_adapters.{_theirs(label, outputs)}", config.of(task.output_domain)
        order = n.channels_last((m.patch, m.classes or m.channels))
        embeddings = tuple(f"{theirs}.task_embeddings.{name}" for name in names)
        rows += [
            *n.within(theirs, f"out_{label}", DECODER),
            n.Row(embeddings, f"out_{label}/map", n.chain(n.leading(2), n.STACK)),
            n.Row(f"{theirs}.out_proj.weight", f"out_{label}/out/kernel", n.chain(order, n.DENSE)),
            n.Row(f"{theirs}.out_proj.bias", f"out_{label}/out/bias", order),
        ]
    return tuple(rows)


def _theirs(label: str, outputs: Mapping[str, str] | None) -> str:
    return ({"rgb_norm_mse": "norm_rgb"} | dict(outputs or {})).get(label, label)


def from_authors(weights: n.Arrays, config: Config, outputs: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Parameters of `config` from a state dict. Raises DataError for an array that is missing, unknown or of another size."""
    batch = {m.name: jax.ShapeDtypeStruct(*m.spec(1)) for m in (*config.maps, *config.targets)}
    shapes = jax.eval_shape(config.build().init, jax.random.key(0), batch)[0]
    return n.to_params(table(config, outputs), weights, shapes)


def to_authors(
    params: Mapping[str, Any], config: Config, outputs: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """The inverse of `from_authors`; key biases are zero."""
    return n.to_arrays(table(config, outputs), params)


def read(weights: n.Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """A pre-training checkpoint as an experiment with its parameters, sizes taken from the arrays; None for other files.

    Not in the arrays, and as in the authors' code: heads of 64 numbers in the encoder, 8 heads in the decoders, standardisation by ImageNet's
    mean and standard deviation (rgb) or by each example (depth).
    """
    tasks = _middle(weights, "output_adapters.", ".task_embeddings.rgb")
    if "global_tokens" not in weights or not tasks:
        return None
    parts = [_modality(weights, name) for name in _middle(weights, "input_adapters.", ".proj.weight")]
    (_, count_global, width), first = weights["global_tokens"].shape, f"output_adapters.{tasks[0]}"
    sizes = {
        "encoder": {"width": width, "depth": n.count(weights, "encoder.{i}.norm1.weight"), "heads": max(1, width // 64)},
        "decoder": {
            "width": weights[f"{first}.mask_token"].shape[-1], "heads": 8,
            "depth": n.count(weights, first + ".decoder_transformer.{i}.norm1.weight"),
        },
    }  # fmt: skip
    system = Config(
        tuple(maps.dense(m, class_dim=_class_dim(weights, m.name), truncated=m.name == "depth") for m in parts),
        tuple(Task(t.removeprefix("norm_"), _loss(t, parts)) for t in tasks),
        num_encoded_tokens=max(1, sum(m.grid[0] * m.grid[1] for m in parts) // 6), global_tokens=count_global,
        **{k: TransformerConfig(epsilon=1e-6, **v) for k, v in sizes.items()},
    )  # fmt: skip
    return Experiment(system, Data(None, tuple(parts))), from_authors(weights, system)


def _middle(weights: n.Arrays, start: str, end: str) -> list[str]:
    """What stands between, in the authors' order: rgb, its normalised patches, depth, semseg, then the others."""
    known = ("rgb", "norm_rgb", "depth", "semseg")
    found = {k[len(start) : -len(end)] for k in weights if k.startswith(start) and k.endswith(end)}
    return sorted(found, key=lambda k: (known.index(k) if k in known else len(known), k))


def _loss(task: str, parts: Sequence[Modality]) -> Any:
    classes = next((m.classes for m in parts if m.name == task), 0)
    return "norm_mse" if task.startswith("norm_") else "ce" if classes else "l1" if task == "depth" else "mse"


def _class_dim(weights: n.Arrays, name: str) -> int:
    return weights[f"input_adapters.{name}.proj.weight"].shape[1]


def _modality(weights: n.Arrays, name: str) -> Modality:
    at = f"input_adapters.{name}"
    channels, patch = weights[f"{at}.proj.weight"].shape[1:3]
    rows, columns = weights[f"{at}.pos_emb"].shape[2:] if f"{at}.pos_emb" in weights else (14, 14)
    size = rows * patch, columns * patch
    if f"{at}.class_emb.weight" in weights:
        bias = weights.get(f"output_adapters.{name}.out_proj.bias")
        classes = len(weights[f"{at}.class_emb.weight"]) if bias is None else len(bias) // patch**2
        return modality.label_map(name, size, classes, patch=patch)
    imagenet: Any = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)} if name == "rgb" else {}
    return modality.image(name, size, channels, patch=patch, **imagenet)
