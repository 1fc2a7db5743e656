"""The authors' MultiMAE weights (EPFL-VILAB/MultiMAE, entry "model" of a checkpoint) as mmrep parameters, and back."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mmrep import modality
from mmrep.config import Data, Experiment
from mmrep.interop.names import (
    DENSE,
    STACK,
    Arrays,
    Row,
    chain,
    channels_last,
    dense,
    fused,
    leading,
    norm,
    padded,
    patches,
    to_arrays,
    to_params,
    unused,
    within,
)  # fmt: skip
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import Map
from mmrep.systems.masked.multimae import Config, Task, labels

MLP = (*dense("mlp.fc1", "mlp/up"), *dense("mlp.fc2", "mlp/down"))
BLOCK = (
    *norm("norm1", "norm_attn"),
    *fused("attn.qkv", "attn", ("query", "key", "value")),
    *dense("attn.proj", "attn/out"),
    *norm("norm2", "norm_mlp"),
    *MLP,
)
DECODER = (
    Row("mask_token", "mask_token", leading(2)),
    *dense("proj_context", "context"),
    *dense("decoder.q", "cross/query"),
    *fused("decoder.kv", "cross", ("key", "value")),
    *dense("decoder.proj", "cross/out"),
    *norm("query_norm", "norm_query"),
    *norm("context_norm", "norm_context"),
    *norm("out_norm", "norm_out"),
    *MLP,
    *within("decoder_transformer.{i}", "block{i:02d}", BLOCK),
)


def table(config: Config, outputs: Mapping[str, str] | None = None) -> tuple[Row, ...]:
    """Their names <-> our paths.   outputs: our decoder -> theirs, where the names differ; {"rgb_norm_mse": "norm_rgb"} is known.

    Their key biases have no counterpart in ours, since softmax is independent of them; their tables of fixed positions are not needed. Their
    code for segmentation adds an embedding for padded pixels behind those of the classes, which ours leaves at zero.
    """
    names = [m.name for m in config.maps]
    rows = [Row("global_tokens", "global/tokens", leading(1)), *within("encoder.{i}", "encoder/block{i:02d}", BLOCK)]
    rows.append(unused("input_adapters.{name}.pos_emb", "output_adapters.{name}.pos_emb"))
    for m in config.maps:
        ours, theirs = f"in_{m.name}", f"input_adapters.{m.name}"
        if m.classes:
            rows.append(Row(f"{theirs}.class_emb.weight", f"{ours}/table", padded()))
        at = ours if m.classes else f"{ours}/embed"
        rows += [
            Row(f"{theirs}.proj.weight", f"{at}/kernel", patches(m.patch, m.class_dim if m.classes else m.channels)),
            Row(f"{theirs}.proj.bias", f"{at}/bias"),
        ]
    for label, task in zip(labels(config.tasks), config.tasks):
        theirs, m = f"output_adapters.{_theirs(label, outputs)}", config.of(task.map)
        order = channels_last((m.patch, m.classes or m.channels))
        embeddings = tuple(f"{theirs}.task_embeddings.{name}" for name in names)
        rows += [
            *within(theirs, f"out_{label}", DECODER),
            Row(embeddings, f"out_{label}/map", chain(leading(2), STACK)),
            Row(f"{theirs}.out_proj.weight", f"out_{label}/out/kernel", chain(order, DENSE)),
            Row(f"{theirs}.out_proj.bias", f"out_{label}/out/bias", order),
        ]
    return tuple(rows)


def _theirs(label: str, outputs: Mapping[str, str] | None) -> str:
    return ({"rgb_norm_mse": "norm_rgb"} | dict(outputs or {})).get(label, label)


def from_authors(weights: Arrays, config: Config, outputs: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Parameters of `config` from a state dict. Raises DataError for an array that is missing, unknown or of another size."""
    batch = {m.name: jax.ShapeDtypeStruct(*m.spec(1)) for m in (*config.maps, *config.targets)}
    shapes = jax.eval_shape(config.build().init, jax.random.key(0), batch)[0]
    return to_params(table(config, outputs), weights, shapes)


def to_authors(
    params: Mapping[str, Any], config: Config, outputs: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """The inverse of `from_authors`; key biases are zero."""
    return to_arrays(table(config, outputs), params)


def read(weights: Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """A pre-training checkpoint as an experiment with its parameters, sizes taken from the arrays; None for other files.

    Not in the arrays, and as in the authors' code: heads of 64 numbers in the encoder, 8 heads in the decoders, standardisation by ImageNet's
    mean and standard deviation (rgb) or by each example (depth).
    """
    tasks = sorted({n.split(".")[1] for n in weights if n.endswith("task_embeddings.rgb")}, key=_order)
    if "global_tokens" not in weights or not tasks:
        return None
    names = sorted({n.split(".")[1] for n in weights if n.startswith("input_adapters.")}, key=_order)
    width = weights["global_tokens"].shape[-1]
    maps = tuple(_map(weights, name) for name in names)
    decoder = weights[f"output_adapters.{tasks[0]}.mask_token"].shape[-1]
    depth = _depth(weights, f"output_adapters.{tasks[0]}.decoder_transformer.")
    tokens = sum(m.grid[0] * m.grid[1] for m in maps)
    system = Config(
        maps, tuple(Task(t.removeprefix("norm_"), _loss(t, maps)) for t in tasks), visible=max(1, tokens // 6),
        encoder=TransformerConfig(width=width, depth=_depth(weights, "encoder."), heads=max(1, width // 64), epsilon=1e-6),
        decoder=TransformerConfig(width=decoder, depth=depth, heads=8, epsilon=1e-6), global_tokens=weights["global_tokens"].shape[1],
    )  # fmt: skip
    parts = tuple(
        modality.label_map(m.name, m.size, m.classes, patch=m.patch) if m.classes
        else modality.image(m.name, m.size, m.channels, patch=m.patch, mean=m.mean, std=m.std)
        for m in maps
    )  # fmt: skip
    return Experiment(system, Data(None, parts)), from_authors(weights, system)


def _order(name: str) -> tuple[int, str]:
    """rgb, its normalised patches, depth, semseg, then the others: the authors' order."""
    known = ("rgb", "norm_rgb", "depth", "semseg")
    return (known.index(name) if name in known else len(known)), name


def _loss(task: str, maps: tuple[Map, ...]) -> Any:
    classes = next((m.classes for m in maps if m.name == task), 0)
    return "norm_mse" if task.startswith("norm_") else "ce" if classes else "l1" if task == "depth" else "mse"


def _depth(weights: Arrays, prefix: str) -> int:
    return len({n.removeprefix(prefix).split(".")[0] for n in weights if n.startswith(prefix)})


def _map(weights: Arrays, name: str) -> Map:
    at = f"input_adapters.{name}"
    channels, patch = weights[f"{at}.proj.weight"].shape[1:3]
    rows, columns = weights[f"{at}.pos_emb"].shape[2:] if f"{at}.pos_emb" in weights else (14, 14)
    size = rows * patch, columns * patch
    if f"{at}.class_emb.weight" in weights:
        bias = weights.get(f"output_adapters.{name}.out_proj.bias")
        classes = len(weights[f"{at}.class_emb.weight"]) if bias is None else len(bias) // patch**2
        return Map(name, size, patch, classes=classes, class_dim=channels)
    if name == "rgb":
        return Map(name, size, patch, channels, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return Map(name, size, patch, channels, truncated=name == "depth")
