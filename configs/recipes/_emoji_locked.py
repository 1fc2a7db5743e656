"""The emoji recipe with frozen pretrained encoders: the size "locked" of `configs.recipes.emoji`."""

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Train
from mmrep.data.augment import DropNumbers
from mmrep.data.emoji import Emoji
from mmrep.evals.suite import Retrieval
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.encoders.vector import VectorEncoder
from mmrep.systems.contrastive.symile import Config
from mmrep.systems.recipes.emoji_locked import IMAGE, TEXT, Locked, RidgeTowers

SPOKEN = (("speech", "speech_en_unseen_voice"),)


def get_config(speech: AudioEncoder, samples: int) -> Experiment:
    """Linear maps of the frozen vectors of pictures and English names, and a speech encoder that is trained from scratch."""
    encoders = (("image", VectorEncoder()), ("text", VectorEncoder()), ("speech", speech))
    system = Config(encoders, 256, "pairwise", smoothing=0.1)
    parts = (
        modality.Modality("image", "vector", (IMAGE[2],), "drawing", augment=(DropNumbers(0.5),)),
        modality.Modality("text", "vector", (TEXT[2],), "name", augment=(DropNumbers(0.3),)),
        modality.audio("speech", samples),
    )
    pairs = (
        ("image", "text"),
        ("text", "image"),
        ("speech", "image"),
        ("image", "speech"),
        ("speech", "text"),
        ("text", "speech"),
    )
    evals = (
        Retrieval("image", "text"), RidgeTowers(), *(Retrieval(a, b) for a, b in pairs[1:]),
        Retrieval("speech", "text", query_fields=SPOKEN, name="speech->text, voice not in training"),
        Retrieval("speech", "image", query_fields=SPOKEN, name="speech->image, voice not in training"),
    )  # fmt: skip
    source = Locked(Emoji(size=128, languages=("en",), speech_languages=("en",), english=1.0))
    data = Data(source, parts, batch_size=128, eval_batch_size=128)
    optim = Optim(lr=3e-4, weight_decay=0.3)
    return Experiment(system, data, (Phase(steps=600),), optim, evals, Train(ema=0.98, checkpoint_every=300))
