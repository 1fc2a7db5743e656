"""The authors' MultiMAE weights (EPFL-VILAB/MultiMAE, entry "model" of a checkpoint) as mmrep parameters, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmrep import modality
from mmrep.config import Data, Experiment
from mmrep.interop import names as n
from mmrep.modality import Modality
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import dense
from mmrep.systems.masked.multimae import Config, Task, labels

Outputs = Mapping[str, str] | None
MLP = (*n.dense("mlp.fc1", "mlp/up"), *n.dense("mlp.fc2", "mlp/down"))
BLOCK = (
    *n.norm("norm1", "norm_attn"), *n.fused("attn.qkv", "attn", ("query", "key", "value")), *n.dense("attn.proj", "attn/out"),
    *n.norm("norm2", "norm_mlp"), *MLP,
)  # fmt: skip
DECODER = (
    n.Row("mask_token", "mask_token", n.leading(2)), *n.dense("proj_context", "context"),
    *n.norm("query_norm", "norm_query"), *n.norm("context_norm", "norm_context"), *n.norm("out_norm", "norm_out"),
    *n.dense("decoder.q", "cross/query"), *n.fused("decoder.kv", "cross", ("key", "value")), *n.dense("decoder.proj", "cross/out"),
    *MLP, *n.within("decoder_transformer.{i}", "block{i:02d}", BLOCK),
)  # fmt: skip


def table(config: Config, outputs: Outputs = None) -> tuple[n.Row, ...]:
    """Their names <-> our paths.   outputs: our decoder -> theirs, where the names differ; {"rgb_norm_mse": "norm_rgb"} is known.

    Their key biases have no counterpart in ours, since softmax is independent of them; their tables of fixed positions are not needed. Their
    code for segmentation adds an embedding for padded pixels behind those of the classes, which ours leaves at zero.
    """
    known = {"rgb_norm_mse": "norm_rgb"} | dict(outputs or {})
    rows = [
        n.Row("global_tokens", "global/tokens", n.leading(1)),
        *n.within("encoder.{i}", "encoder/block{i:02d}", BLOCK),
        n.unused("input_adapters.{name}.pos_emb", "output_adapters.{name}.pos_emb"),
    ]
    for m in config.maps:
        theirs, ours = f"input_adapters.{m.name}", f"in_{m.name}" + ("" if m.classes else "/embed")
        patches = n.patches(m.patch, m.class_dim if m.classes else m.channels)
        rows += [
            n.Row(f"{theirs}.proj.weight", f"{ours}/kernel", patches),
            n.Row(f"{theirs}.proj.bias", f"{ours}/bias"),
        ]
        rows.append(n.Row(f"{theirs}.class_emb.weight", f"{ours}/table", n.padded()))
    for label, task in zip(labels(config.tasks), config.tasks):
        theirs, m = f"output_adapters.{known.get(label, label)}", config.of(task.output_domain)
        order = n.channels_last((m.patch, m.classes or m.channels))
        embeddings = tuple(f"{theirs}.task_embeddings.{other.name}" for other in config.maps)
        rows += [
            *n.within(theirs, f"out_{label}", DECODER),
            n.Row(embeddings, f"out_{label}/map", n.chain(n.leading(2), n.STACK)),
            n.Row(f"{theirs}.out_proj.weight", f"out_{label}/out/kernel", n.chain(order, n.DENSE)),
            n.Row(f"{theirs}.out_proj.bias", f"out_{label}/out/bias", order),
        ]
    return tuple(rows)


def from_authors(weights: n.Arrays, config: Config, outputs: Outputs = None) -> dict[str, Any]:
    """Parameters of `config` from a state dict. Raises DataError for an array that is missing, unknown or of another size."""
    return n.to_params(table(config, outputs), weights, n.shapes_of_system(config, (*config.maps, *config.targets)))


def to_authors(params: Mapping[str, Any], config: Config, outputs: Outputs = None) -> dict[str, np.ndarray]:
    """The inverse of `from_authors`; key biases are zero."""
    return n.to_arrays(table(config, outputs), params)


def read(weights: n.Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """A pre-training checkpoint as an experiment with its parameters, sizes taken from the arrays; None for other files.

    Not in the arrays, and as in the authors' code: heads of 64 numbers in the encoder, 8 heads in the decoders, standardisation by ImageNet's
    mean and standard deviation (rgb) or by each example (depth).
    """
    tasks = _between(weights, "output_adapters.", ".task_embeddings.rgb")
    if "global_tokens" not in weights or not tasks:
        return None
    parts = tuple(_modality(weights, name) for name in _between(weights, "input_adapters.", ".proj.weight"))
    dims = {m.name: weights[f"input_adapters.{m.name}.proj.weight"].shape[1] for m in parts if m.classes}
    losses: dict[str, Any] = {"depth": "l1", "norm_rgb": "norm_mse"} | {m.name: "ce" for m in parts if m.classes}
    (_, count, width), first = weights["global_tokens"].shape, f"output_adapters.{tasks[0]}"
    depth, decoder_depth = (
        n.count(weights, f"{k}.{{i}}.norm1.weight") for k in ("encoder", f"{first}.decoder_transformer")
    )
    system = Config(
        tuple(dense(m, class_dim=dims.get(m.name, 64), truncated=m.name == "depth") for m in parts),
        tuple(Task(t.removeprefix("norm_"), losses.get(t, "mse")) for t in tasks),
        num_encoded_tokens=max(1, sum(m.grid[0] * m.grid[1] for m in parts) // 6), global_tokens=count,
        encoder=TransformerConfig(width=width, depth=depth, heads=max(1, width // 64), epsilon=1e-6),
        decoder=TransformerConfig(width=weights[f"{first}.mask_token"].shape[-1], depth=decoder_depth, heads=8, epsilon=1e-6),
    )  # fmt: skip
    return Experiment(system, Data(None, parts)), from_authors(weights, system)


def _between(weights: n.Arrays, start: str, end: str) -> list[str]:
    """The names between, in the authors' order: rgb, its normalised patches, depth, semseg, then the others."""
    known = ("rgb", "norm_rgb", "depth", "semseg")
    found = {k[len(start) : -len(end)] for k in weights if k.startswith(start) and k.endswith(end)}
    return sorted(found, key=lambda k: (known.index(k) if k in known else len(known), k))


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
