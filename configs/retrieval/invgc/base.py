"""InvGC on a dual encoder of scenes and captions, trained briefly."""

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Tokenizer, Train
from mmrep.data.scenes import CaptionSpec, SceneData, WorldSpec
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.retrieval.invgc import Config, collect_banks
from mmrep.systems.retrieval.invgc.evals import Robust

VOCAB, LENGTH = 64, 40
CAPTION = CaptionSpec("list", place=False, setting=False)


def scenes(size: int = 32, **splits: int) -> SceneData:
    return SceneData(size=size, world=WorldSpec(n_objects=(1, 3)), caption=CAPTION, **splits)


def evals(bank: int) -> tuple:
    """Both directions; the foreign bank is of line drawings at night."""
    other = WorldSpec(n_objects=(1, 3), lights=("night",), styles=("line",))
    foreign = SceneData(max(bank, 16), world=other, caption=CAPTION)
    return (Robust("image", "text", bank=bank, foreign=foreign), Robust("text", "image", bank=bank, foreign=foreign))


def experiment(
    source: SceneData, system: Config, *, steps: int, batch: int, evals: tuple, vocab: int = VOCAB
) -> Experiment:
    pair = (
        modality.image("image", source.size, field="rgb"),
        modality.text("text", system.text.length, system.text.vocab, field="caption"),
    )
    return Experiment(
        system, Data(source, pair, Tokenizer(vocab, kind="word"), batch_size=batch),
        phases=(Phase(steps=steps), Phase("banks", run=collect_banks)),
        optim=Optim(lr=1e-3, warmup=min(50, steps // 10), weight_decay=0.05), evals=evals, train=Train(log_every=50),
    )  # fmt: skip


def small() -> Experiment:
    """Trained briefly on purpose: the claim is about embeddings that crowd."""
    shape = TransformerConfig(width=48, depth=2, heads=4)
    image, text = ImageEncoder(shape, patch=8), TextEncoder(shape, vocab=VOCAB, length=LENGTH)
    system = Config(image, text, dim=64, bank=2000)
    return experiment(scenes(n_val=200), system, steps=600, batch=64, evals=evals(2000))
