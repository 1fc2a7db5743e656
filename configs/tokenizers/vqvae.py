"""VQ-VAE: 4M's tokenizer of maps, one id per patch (Mizrahi et al., NeurIPS 2023)

Massively multimodal masked modeling, arXiv 2312.06647. ViTs around a cosine codebook with dead-code restart; FSQ; a diffusion decoder.
    python -m experiments.train vqvae
    python -m experiments.train vqvae --variant diffusion
Variants: diffusion (U-Net decoder), semseg and depth (other maps), fourm (the images of `fourm`).
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from configs.masked import _fourm_shared
from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Train
from mmrep.data import pipeline
from mmrep.data.scenes.source import SceneData
from mmrep.data.scenes.world import GROUNDS, SHAPES, TEXTURES, WorldSpec
from mmrep.errors import ConfigError
from mmrep.evals.tokens import Reconstruction, code_use, errors
from mmrep.modality import Modality
from mmrep.nn.config import TransformerConfig
from mmrep.nn.config import variant as published
from mmrep.nn.maps import dense
from mmrep.nn.quantise import patch_ids, patch_values
from mmrep.systems.tokenizers.vqvae import Config

SIZES = ("tiny", "small", "paper")
VARIANTS = ("diffusion", "semseg", "depth", "fourm")
CLASSES = 1 + len(SHAPES)
WORLD = WorldSpec((2, 4), textures=TEXTURES, grounds=GROUNDS, distinct="none", overlap=True, rotation=0.4)
LEVELS = (6, 6, 6)  # 216 ids, as many as the codebook
PART = modality.image("rgb", 32, patch=4)
RGB = dense(PART)
SHAPE = TransformerConfig(width=64, depth=1, heads=2, epsilon=1e-6)
SMALL = Config(RGB, codes=216, latent=8, encoder=SHAPE, decoder=SHAPE)
DIFFUSION = replace(SMALL, decoder_type="diffusion", unet_widths=(32, 64), unet_blocks=1, unet_patch=2)


def data(part: Modality, n_train: int, batch: int, n_eval: int = 300, eval_batch: int = 100) -> Data:
    source = SceneData(n_train, n_eval, n_eval, size=part.size[0], sensors=(part.name,), world=WORLD)
    return Data(source, (part,), batch_size=batch, eval_batch_size=eval_batch)


def experiment(system: Config = SMALL, steps: int = 400, part: Modality = PART) -> Experiment:
    optim = Optim(lr=2e-3, warmup=steps // 20, weight_decay=0.01, b2=0.99)
    evals = (Reconstruction(part.name, system.vocab, classes=part.classes),)
    return Experiment(system, data(part, 8000, 32), (Phase(steps=steps),), optim, evals, Train(log_every=50))


def small(variant: str = "") -> Experiment:
    if variant == "diffusion":
        return experiment(DIFFUSION, 2000)
    if variant == "semseg":
        part = modality.label_map("semseg", 32, CLASSES, patch=4)
        return experiment(replace(SMALL, map=dense(part, class_dim=16), codes=64), part=part)
    if variant == "depth":
        part = modality.image("depth", 32, 1, patch=4, mean=(0.8,), std=(0.25,))
        return experiment(replace(SMALL, map=dense(part), codes=64, loss="smooth_l1"), part=part)
    e = experiment(steps=800)
    return replace(e, data=replace(e.data, source=_fourm_shared.scenes())) if variant == "fourm" else e


def tiny() -> Experiment:
    part, shape = modality.image("rgb", 16, patch=4), replace(SHAPE, width=16, depth=2)
    system = replace(SMALL, map=dense(part), codes=16, latent=4, encoder=shape, decoder=shape)
    few = data(part, 64, 8, n_eval=24, eval_batch=8)
    evals = (Reconstruction("rgb", 16),)
    return Experiment(system, few, (Phase(steps=4),), Optim(lr=1e-3), evals, Train(log_every=2))


def paper() -> Experiment:
    """DiVAE: 50 epochs of ImageNet; the batch size is ours."""
    encoder, patch = published("B/16", epsilon=1e-6, scan=True, remat=True)
    part = modality.image("rgb", 224, patch=patch)
    system = Config(dense(part), decoder_type="diffusion", encoder=encoder, dtype="bfloat16")
    optim = Optim(lr=4e-4, warmup=6_250, weight_decay=0.05, b2=0.99)
    whole, rules = data(part, 1_281_167, 1024), (Rule(".*", "fsdp"),)
    return Experiment(system, whole, (Phase(steps=62_500),), optim, train=Train(ema=0.9999), sharding=rules)


def get_config(size: str = "small", variant: str = "") -> Experiment:
    if variant and size != "small":
        raise ConfigError(f"variant {variant!r} has size small only")
    return small(variant) if size == "small" else {"tiny": tiny, "paper": paper}[size]()


def patch_means(seed: int, split: str = "test") -> Mapping[str, float]:
    """A baseline with as many ids: each patch's mean, rounded to six levels per channel."""
    opened = pipeline.open_split(experiment().data, None, split)
    x = np.stack([opened.entry(i)["rgb"] for i in range(len(opened))])
    ids = patch_ids(x, RGB.grid, LEVELS)
    flat = np.repeat(np.repeat(np.asarray(patch_values(ids, LEVELS)), RGB.patch, axis=1), RGB.patch, axis=2)
    return {f"rgb {k}": v for k, v in (errors(flat, x) | code_use(np.asarray(ids), 216)).items()}


def get_proof() -> Proof:
    fsq = replace(SMALL, quantiser="fsq", levels=LEVELS)
    return Proof(
        claim="Restarting dead codes lets a cosine codebook use its codes and reconstruct better, and learned codes keep more of an image than patch means at the same token count.",
        metric="rgb PSNR",
        arms=(
            Arm("codebook", experiment()),
            Arm("no restart", experiment(replace(SMALL, dead=0.0))),
            Arm("fsq", experiment(fsq)),
            Arm("patch means", run=patch_means),
            Arm("diffusion", experiment(DIFFUSION, 1200)),
            Arm("direct, as long", experiment(steps=1200)),
        ),
        expects=(
            Expect("codebook", "no restart", 0.0, "restart > none, PSNR of held-out images in dB"),
            Expect("codebook/rgb codes used", 0.8, 0.0, "more than 80 % of the codes occur"),
            Expect("codebook/rgb codes used", "no restart/rgb codes used", 0.2, "and more than without restart"),
            Expect("codebook", "patch means", 1.0, "learned codes > patch means, 216 ids for 64 patches"),
            Expect("fsq", "patch means", 1.0, "finite scalar levels > patch means", headline=False),
            Expect("diffusion/rgb detail", "direct, as long/rgb detail", 0.05, "a diffusion decoder blurs less than a direct one with equal steps", headline=False),
            Expect(1.1, "diffusion/rgb detail", 0.0, "and adds no detail that the image does not have", headline=False),
        ),
        notes="Equal autoencoders, data, steps and learning rate, but for the diffusion decoder and its direct baseline, with 1,200 steps instead of 400. 216 codes, "
        "or 6 x 6 x 6 levels of a latent with three channels. At the codebook's learning rate the tanh of the levels saturates and few ids are used.",
    )  # fmt: skip
