"""MMTrail: clips of trailers, their sound and merged captions in one space (Chi et al. 2024, arXiv 2407.20962).

Section 3.1, cuts, key frames, measures and filters     mmrep.data.trailers.scenes, key_frames, motion, sharpness, Filter
Section 3.2, experts of each modality                   mmrep.data.trailers.annotate, measure; experiments.annotate
Section 3.3, merged captions                            mmrep.data.trailers.merge
Use of the captions: a dual encoder of three modalities Config.build, mmrep.losses.contrastive.pairwise_info_nce

The paper is a data set and a pipeline. Its experts (CoCa, LLaVA, a music captioner, speech recognition) and the language model that merges
are functions of the user here; the merge of `mmrep.data.trailers` is by rule.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.losses.contrastive import pairwise_info_nce
from mmrep.nn.dual import Encoder, dual_encoder
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.video import CodesEncoder, VideoEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.system import Batch, Extras, Infer, Metrics, Params, System, stateless


@dataclass(frozen=True)
class Config:
    """A batch has video, text and, unless `audio` is None, audio.

    audio: None for clips without sound.   infer "saliency", of frames, is for encoders that have them.   infer "clip" is the mean of a clip's video and audio vectors, of unit length: what texts about either find.
    """

    video: Encoder = VideoEncoder()
    audio: Encoder | None = AudioEncoder()
    text: TextEncoder = TextEncoder()
    dim: int = 64
    temperature: float = 0.07
    dtype: str = "float32"

    def chance_loss(self, batch_size: int) -> float:
        """The loss at equal logits: log B of each pair of modalities."""
        return math.log(batch_size) * (1 if self.audio is None else 3)

    def build(self) -> System:
        check_fields(self, {"temperature": (self.temperature > 0, "it must be positive")})
        encoders = {"video": self.video, "text": self.text} | ({} if self.audio is None else {"audio": self.audio})
        model = dual_encoder(encoders, self.dim, scale=1 / self.temperature, dtype=self.dtype)
        shown = dual_encoder({"video": self.video}, self.dim, tokens=True, dtype=self.dtype)

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            scale = model.scale(params)
            value = pairwise_info_nce([model.embed(params, batch, n) for n in model.names], scale).mean()
            return value, {"scale": scale}

        def clip(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
            return l2_normalise(jnp.stack([model.embed(params, batch, n) for n in model.names if n != "text"]).mean(0))

        def saliency(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B T"]:
            """The similarity of the text to each frame; those that are missing have -1."""
            out = shown.full(params, batch, "video")[1]
            found = jnp.einsum("btd,bd->bt", out["projected"], model.embed(params, batch, "text"))
            return jnp.where(out["frames_valid"], found, -1.0)

        infer: dict[str, Infer] = model.infer() | {"clip": clip}
        if isinstance(self.video, VideoEncoder | CodesEncoder):
            infer["saliency"] = saliency
        return System(lambda rng, batch: (model.init(rng, batch), {}), stateless(loss), infer)
