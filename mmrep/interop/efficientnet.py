"""EfficientNet-Lite classifiers under the names of the PyTorch port of EfficientNet."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmrep import modality
from mmrep.config import Experiment
from mmrep.errors import DataError
from mmrep.interop import names as n
from mmrep.interop import vision
from mmrep.nn.encoders.efficientnet import EfficientNetLite

EPSILON = 1e-3
"""Of their batch normalisation."""
SIZE = 224


def folded(arrays: n.Arrays, conv: str, norm: str, ours: str) -> dict[str, np.ndarray]:
    """Kernel and bias of a convolution followed by batch normalisation with its trained statistics."""
    scale, bias, mean, variance = (arrays[f"{norm}.{k}"] for k in ("weight", "bias", "running_mean", "running_var"))
    factor = scale / np.sqrt(variance + EPSILON)
    (kernel,) = n.CONV.read([arrays[f"{conv}.weight"] * factor[:, None, None, None]])
    return {f"{ours}/kernel": kernel, f"{ours}/bias": bias - mean * factor}


def read(arrays: n.Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """EfficientNet-Lite0 and its classifier as an experiment with its parameters; None for other models.

    Batch normalisation becomes a part of the convolutions. Raises DataError for another size of the network.
    """
    if not {"_conv_stem.weight", "_blocks.0._depthwise_conv.weight", "_fc.weight"} <= {*arrays}:
        return None
    encoder = EfficientNetLite()
    found = folded(arrays, "_conv_stem", "_bn0", "encoder/stem") | folded(arrays, "_conv_head", "_bn1", "encoder/head")
    try:
        for i, (_, _, expansion, _) in enumerate(encoder.blocks()):
            parts: tuple[tuple[str, str, str], ...] = (
                ("_depthwise_conv", "_bn1", "depthwise"),
                ("_project_conv", "_bn2", "project"),
            )
            parts = (("_expand_conv", "_bn0", "expand"), *parts) if expansion > 1 else parts
            for conv, norm, ours in parts:
                found |= folded(arrays, f"_blocks.{i}.{conv}", f"_blocks.{i}.{norm}", f"encoder/block{i:02d}_{ours}")
    except KeyError as error:
        raise DataError(f"the file has no array {error}: only EfficientNet-Lite0 is supported") from None
    found |= {"head/kernel": arrays["_fc.weight"].T, "head/bias": arrays["_fc.bias"]}
    config = vision.Config(encoder, len(arrays["_fc.bias"]))
    picture = modality.image("image", SIZE, crop=True)
    rows = [n.Row(path, path) for path in found]
    return vision.experiment(config, picture, rows, found)
