"""mmE5: one embedder of texts, pictures and both, trained on synthesised triples (Chen et al., ACL Findings 2025)

mmE5: Improving Multimodal Multilingual Embeddings via High-quality Synthetic Data, arXiv 2502.08468.
    python -m experiments.synthesise mme5 --folder PICTURES --writer mymodule:write --out pairs.jsonl
    python -m experiments.train mme5 --variant triples --data.source.path pairs.jsonl
    python -m experiments.prove mme5
On your own data: JSON lines (variant "triples") with instruction, query_text, query_image, target_text, target_image, and lists negative_text
and negative_image; a side may lack its text or its picture. `synthesise` writes them about a folder of pictures, with any callable as writer.
"""

from dataclasses import replace
from typing import Any

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Tokenizer, Train
from mmrep.data.things import Things
from mmrep.data.triples import Triples
from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.config import variant as published
from mmrep.nn.dual import Encoder
from mmrep.nn.encoders.decoder_lm import DecoderLM
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.regions import RegionTower
from mmrep.systems.contrastive.mme5 import Config
from mmrep.systems.contrastive.mme5.data import Synthetic
from mmrep.systems.contrastive.mme5.evals import Candidates

SIZES = ("tiny", "small", "paper")
VARIANTS = ("triples",)
CODES = 4, 32


def embedder(
    image: Encoder, words: TransformerConfig, source: Any, *, size: tuple[int, int] | None, tokens: int, vocab: int, lengths: tuple[int, int],
    negatives: int, steps: int, batch: int, lr: float, kind: str = "word", **options: Any,
) -> Experiment:  # fmt: skip
    """size: of pictures; None: codes.   tokens: of a picture.   lengths: of instructions and texts."""
    count, (told, length) = negatives, lengths
    parts = [modality.text("instruction", told, vocab)]
    for side in ("query", "target"):
        name = f"{side}_image"
        parts += [
            modality.text(f"{side}_text", length, vocab), modality.image(name, size) if size else modality.vector(name, *CODES),
            modality.vector(f"{side}_has", 2),
        ]  # fmt: skip
    parts += [
        modality.texts("negative_text", count, length, vocab), modality.vector("negative_has", count, 2), modality.label("target_id", 2**30),
        modality.video("negative_image", count, size) if size else modality.vector("negative_image", count, *CODES),
    ]  # fmt: skip
    model = DecoderLM(words, vocab, tokens + told + length, learned_positions=words.rotary is None)
    evals = (Candidates(group="cell" if isinstance(source, Synthetic) else ""),)
    return Experiment(
        Config(image, model, **options), Data(source, tuple(parts), Tokenizer(vocab, kind=kind), batch_size=batch, eval_batch_size=128),  # type: ignore[arg-type]
        phases=(Phase(steps=steps),), optim=Optim(lr=lr, schedule="linear", warmup=max(1, steps // 20), clip=5.0), evals=evals,
        train=Train(log_every=50),
    )  # fmt: skip


def get_config(size: str = "small", variant: str = "") -> Experiment:
    if variant not in ("", *VARIANTS) or (variant and size == "tiny"):
        raise ConfigError(f"variant is {variant!r}: choose triples, of size small or paper")
    if size == "tiny":
        shape = TransformerConfig(width=16, depth=1, heads=2)
        source = Synthetic(Things(40, 20, 20, (4,) * 4, told=(1.0,) * 4), labelled=16, written=16, negatives=2, tests=1)
        return embedder(
            RegionTower(shape, blocks=False), shape, source, size=None, tokens=4, vocab=128, lengths=(4, 6), negatives=2, steps=4, batch=8,
            lr=1e-3, lora_rank=2,
        )  # fmt: skip
    if size == "small":
        shape, side = TransformerConfig(width=96, depth=2, heads=4), (32, 32)
        things = Things(2000, 400, 400, (12,) * 4, told=(1.0,) * 4, picture=(32, 32))
        source = Synthetic(things, labelled=2000, written=10_000, error=0.2, image="picture")
        read = Triples("pairs.jsonl", size=side)
        return embedder(
            ImageEncoder(shape, patch=8), shape, read if variant else source, size=side, tokens=16, vocab=2048 if variant else 300,
            lengths=(24, 32) if variant else (4, 6), negatives=3, steps=2000, batch=64, lr=1e-3, kind="unigram" if variant else "word",
        )  # fmt: skip
    # The shape of Llama-3.2-11B-Vision, its cross-attention replaced by a prefix of picture tokens; 560,000 synthetic and 20 labelled sets.
    image, patch = published("H/14", scan=True, remat=True)
    words = TransformerConfig(
        width=4096, depth=40, heads=32, kv_heads=8, mlp_dim=14_336, norm_type="rms", activation="swiglu", use_bias=False, rotary=500_000.0,
        scan=True, remat=True,
    )  # fmt: skip
    large = embedder(
        ImageEncoder(image, patch=patch), words, Triples("pairs.jsonl", size=(560, 560)), size=(560, 560), tokens=1600, vocab=128_256,
        lengths=(64, 256), negatives=3, steps=6000, batch=256, lr=1e-5, kind="bpe", lora_rank=8, dtype="bfloat16",
    )  # fmt: skip
    adapted = Phase(steps=6000, trainable=("lora/.*", "connector/.*"))
    return replace(large, phases=(adapted,), sharding=(Rule(".*", "fsdp"),))


def codes(
    written: int = 4000, *, steps: int = 400, batch: int = 48, negatives: bool = True, **about: Any
) -> Experiment:
    """Codes of four regions and words of four languages; 2,000 labelled triples of two cells, and the written ones."""
    shape = TransformerConfig(width=32, depth=2, heads=4)
    source = Synthetic(Things(1000, 200, 200, (12,) * 4, told=(1.0,) * 4), written=written, negatives=2, **about)
    found = embedder(
        RegionTower(shape, blocks=False), shape, source, size=None, tokens=4, vocab=256, lengths=(4, 6), negatives=2, steps=steps, batch=batch,
        lr=3e-3, temperature=0.05,
    )  # fmt: skip
    return replace(
        found, system=replace(found.system, negatives=negatives), data=replace(found.data, eval_batch_size=512)
    )


def get_proof() -> Proof:
    hard = "hard precision@1"
    return Proof(
        claim="Breadth, alignment and checking of synthesised triples decide how an embedder transfers to unseen tasks, forms and languages; hard "
        "negatives separate look-alikes.",
        metric="precision@1",
        arms=(
            Arm("labelled", codes(0)), Arm("broad", codes(error=0.2)), Arm("narrow", codes(error=0.2, breadth="narrow")),
            Arm("noisy", codes(wrong=0.4, checked=False)), Arm("unchecked", codes(error=0.2, checked=False)),
            Arm("no hard negatives", codes(error=0.2, negatives=False)),
        ),
        expects=(
            Expect(better="broad", worse="labelled", margin=0.1, statement="broad triples gain 10 points over the labelled ones alone"),
            Expect(better="broad", worse="narrow", margin=0.08, statement="and 8 points over as many of the labelled ones' cells"),
            Expect(better="broad", worse="noisy", margin=0.05, statement="two fifths about another thing cost 5 points"),
            Expect(better="broad", worse="unchecked", margin=0.02, headline=False, statement="checks of drafts gain 2 points"),
            Expect(
                better=f"broad/{hard}", worse=f"no hard negatives/{hard}", margin=0.05, statement="hard negatives gain 5 points among look-alikes"
            ),
        ),
        seeds=(10, 11, 12),
        data="made things (noisy codes in the place of pixels) and a simulated writer",
        notes="The writer is simulated: it knows the truth and errs at stated rates. Test cells are 16 of 64 that no training set has, 64 candidates each.",
    )  # fmt: skip
