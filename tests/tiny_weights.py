"""Folders of tiny random weights as other libraries save them, with tokenizers of the golden files."""

from pathlib import Path

import jax
import numpy as np

import mmrep
from mmrep import modality
from mmrep.config import Data, Experiment, Tokenizer
from mmrep.data import published
from mmrep.interop import vision
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive import clip

GOLDEN = np.load(Path(__file__).parent / "golden" / "published_tokenizers.npz")
SMALL = TransformerConfig(16, 1, 2, activation="quick_gelu")


def tokenizer(case: str, path: Path, kind: str) -> bytes:
    """The golden tokenizer of `case`, its files written to a folder."""
    path.mkdir()
    start = f"{case}/files/"
    for key in GOLDEN.files:
        if key.startswith(start):
            (path / key.removeprefix(start)).write_bytes(GOLDEN[key].tobytes())
    packed = published.pack(path, kind)
    assert packed is not None
    return packed


def clip_folder(path: Path) -> Path:
    """A CLIP for Hugging Face: pictures of 32 x 32, 940 pieces of text."""
    encoders = ImageEncoder(SMALL, patch=8, pool="cls", pre_norm=True), TextEncoder(SMALL, 940, 77, True, "eos", 939)
    parts = modality.image("image", 32, patch=8, crop=True), modality.text("text", 77, 940)
    config = clip.Config(*encoders, dim=16)
    params = config.build().init(jax.random.key(0), modality.example(parts, 1))[0]
    experiment = Experiment(config, Data(None, parts, Tokenizer(940, "published")))
    words = tokenizer("clip", path.with_name(f"{path.name}-words"), "clip")
    return mmrep.Model(experiment, params, {}, words).save(path, format="hf")


def vit_folder(path: Path) -> Path:
    """A ViT for Hugging Face, of pictures of 32 x 32."""
    parts = (modality.image("image", 32, patch=8),)
    config = vision.Config(ImageEncoder(TransformerConfig(16, 1, 2), patch=8, pool="cls"))
    params = config.build().init(jax.random.key(0), modality.example(parts, 1))[0]
    return mmrep.Model(Experiment(config, Data(None, parts)), params).save(path, format="hf")


def gpt2_folder(path: Path) -> Path:
    """A GPT-2 of 520 pieces and 64 places, with its tokenizer."""
    from safetensors.numpy import save_file

    from mmrep.interop import decoder_lm, names
    from mmrep.nn.encoders.decoder_lm import DecoderLM

    tokenizer("gpt2", path, "gpt2")
    lm = DecoderLM(TransformerConfig(16, 1, 2, mlp_dim=64, activation="gelu_tanh"), 520, 64)
    params = lm.module().init(jax.random.key(0), np.ones((1, 2), np.int32))["params"]
    arrays = names.to_arrays(decoder_lm.table(lm), params)
    save_file({k: np.array(v, order="C") for k, v in arrays.items()}, path / "model.safetensors")
    about = '{"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": 520, "eos_token_id": 0}'
    (path / "config.json").write_text(about)
    return path
