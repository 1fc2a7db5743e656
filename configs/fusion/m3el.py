"""M3EL: entity linking by matchers within and across text and image (Hu et al., KDD 2025)

Multi-level Matching Network for Multimodal Entity Linking, arXiv 2412.10440. The proof uses codes of pictures, `small` pictures.
    python -m experiments.train m3el
    python -m experiments.prove m3el
A user's own records (Table, Folder or Arrays) have mention_text, entity_text, mention_image, entity_image (pictures, or lists of numbers
[tokens, width] of a frozen encoder) and entity_id, a whole number; `Linking` measures over the entities of the split, and
`model.score_matrix(mentions, entities, names=("mention", "entity"))` of `mention_tokens` and `entity_tokens` ranks any knowledge base.
"""

from dataclasses import replace
from typing import Any

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Tokenizer, Train
from mmrep.data.mentions import MentionData
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.video import CodesEncoder
from mmrep.systems.fusion.m3el import Config
from mmrep.systems.fusion.m3el.evals import Linking

SIZES = ("tiny", "small", "paper")
VOCAB, LENGTH = 64, 8


def linking(
    source: MentionData, system: Config, *, steps: int, batch: int = 64, lr: float = 1e-3, vocab: int = VOCAB
) -> Experiment:
    length = system.text.length
    parts: tuple[Any, ...] = tuple(modality.text(f"{s}_text", length, vocab) for s in ("mention", "entity"))
    for side in ("mention", "entity"):
        name = f"{side}_image"
        parts += (modality.image(name, source.size) if source.size else modality.vector(name, 4, 24),)
    parts += (modality.label("entity_id", source.names * source.homonyms), modality.vector("present", 2))
    return Experiment(
        system, Data(source, parts, Tokenizer(vocab, kind="word"), batch_size=batch), phases=(Phase(steps=steps),),
        optim=Optim(lr=lr, warmup=min(100, steps // 10)), evals=(Linking(homonyms="name", by="kind"),),
        train=Train(log_every=50),
    )  # fmt: skip


def codes(width: int = 48, **changes: Any) -> Config:
    text = TextEncoder(TransformerConfig(width=width, depth=1, heads=4), vocab=VOCAB, length=LENGTH, pool="cls")
    return replace(Config(text, CodesEncoder(width), image_dim=width, dim=width), **changes)


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        source = MentionData(n_train=64, n_val=16, n_test=16, names=8, missing=0.3)
        return linking(source, codes(16), steps=4, batch=8)
    if size == "small":
        shape = TransformerConfig(width=64, depth=2, heads=4)
        text = TextEncoder(shape, vocab=VOCAB, length=LENGTH, pool="cls")
        image = ImageEncoder(shape, patch=4, pool="cls")
        return linking(MentionData(12_000, size=24, missing=0.1), Config(text, image), steps=3000)
    # CLIP ViT-B/32, fine-tuned for 20 epochs of WikiMEL; here from its own initial weights. 110 k entities.
    vit, patch = variant("B/32", scan=True, remat=True)
    text = TextEncoder(
        TransformerConfig(width=512, depth=12, heads=8, activation="quick_gelu", scan=True, remat=True),
        vocab=49_408, length=40, causal=True, pool="eos",
    )  # fmt: skip
    image = ImageEncoder(vit, patch=patch, pool="cls", pre_norm=True)
    source = MentionData(18_092, names=27_000, size=224, missing=0.1)
    large = linking(source, Config(text, image), steps=2830, batch=128, lr=1e-5, vocab=49_408)
    return replace(large, optim=Optim(lr=1e-5, eps=1e-4, weight_decay=1e-4), sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    def arm(name: str, **changes: Any) -> Arm:
        return Arm(name, linking(MentionData(), codes(**changes), steps=600, lr=2e-3))

    crossed, text, image = (f"H@1 homonyms [{k}]" for k in ("crossed", "text", "image"))
    return Proof(
        claim="Matching within modalities alone misses mentions whose words name what only the entity's picture shows; M3EL's matching across modalities finds them.",
        metric=crossed,
        arms=(
            arm("M3EL"), arm("one direction", cross="text"), arm("no cross", cross="none"), arm("late sum", late_sum=True),
        ),
        expects=(
            Expect(better="M3EL", worse="no cross", margin=0.15, statement="with matching across modalities more crossed mentions are linked"),
            Expect(better="M3EL", worse=0.25, margin=0.12, statement="and more than by guessing among the 4 homonyms"),
            Expect(better=f"M3EL/{text}", worse=f"no cross/{text}", slack=0.02, statement="mentions told by words lose nothing"),
            Expect(better=f"M3EL/{image}", worse=f"no cross/{image}", slack=0.02, statement="and those told by pictures"),
            Expect(better="M3EL", worse="one direction", slack=0.05, headline=False, statement="both directions are as good as one"),
            Expect(better="M3EL", worse="late sum", headline=False, statement="M3EL links more crossed mentions than a sum of both in one space (expected to tie or lose)"),
        ),
        seeds=(10, 11, 12),
        data="synthetic mentions of unseen entities with ambiguous names; codes of pictures",
    )  # fmt: skip
