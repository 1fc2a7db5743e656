"""Other people's training steps, for experiments.bench --against: built at the sizes of a config, if they are installed here."""

import time
from collections.abc import Callable
from typing import Any

from mmrep.errors import ConfigError


def open_clip(experiment: Any) -> tuple[str, Callable[[], float]]:
    """(versions, a function that takes one step and returns its seconds) of open_clip's CLIP: its ClipLoss, fused AdamW, float32.

    Raises ConfigError where open_clip is not installed, or the config is no CLIP (experiments.bench clip --size bench is).
    """
    from mmrep import modality
    from mmrep.systems.contrastive.clip import Config

    system = experiment.system
    if not isinstance(system, Config) or system.loss != "softmax" or system.dtype != "float32":
        raise ConfigError(
            "--against open_clip compares float32 configs of clip with the softmax loss: use clip --size bench"
        )
    try:
        import torch
        from open_clip.loss import ClipLoss
        from open_clip.model import CLIP
    except ImportError as error:
        raise ConfigError(
            f"--against open_clip needs torch and open_clip_torch in this environment ({error})"
        ) from None
    image, text = system.image, system.text
    vision, language = image.transformer, text.transformer
    pixels, ids = (m for m in experiment.data.modalities)
    model = CLIP(
        system.dim,
        {"image_size": pixels.shape[0], "layers": vision.depth, "width": vision.width, "head_width": vision.width // vision.heads, "patch_size": image.patch},
        {"context_length": text.length, "vocab_size": text.vocab, "width": language.width, "heads": language.heads, "layers": language.depth},
    )  # fmt: skip
    optim, loss = experiment.optim, ClipLoss()
    rule = torch.optim.AdamW(
        model.parameters(), optim.lr, (optim.b1, optim.b2), optim.eps, optim.weight_decay, fused=True
    )
    batch = modality.example(experiment.data.modalities, experiment.data.batch_size)
    images = torch.from_numpy(batch[pixels.name]).permute(0, 3, 1, 2).contiguous()
    tokens = torch.from_numpy(batch[ids.name]).long()
    tokens[tokens == modality.EOS] = text.vocab - 1  # open_clip pools the text at its largest id

    def step() -> float:
        clock = time.perf_counter()
        rule.zero_grad()
        loss(*model(images, tokens)).backward()
        rule.step()
        return time.perf_counter() - clock

    return f"torch {torch.__version__}, {torch.get_num_threads()} threads", step


RIVALS = {"open_clip": open_clip}
