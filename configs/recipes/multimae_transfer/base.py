"""Fine-tuning of a small MultiMAE: heads, labelled scenes and optimiser."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from configs.masked import _multimae as multimae
from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Pretrained, Rule, Train
from mmrep.data.scenes.source import SceneData
from mmrep.evals.dense import Predicted
from mmrep.modality import Modality
from mmrep.systems.recipes import finetune
from mmrep.systems.recipes.finetune import Config
from mmrep.systems.recipes.finetune.dpt import Dpt
from mmrep.systems.recipes.finetune.heads import ConvNeXt, Linear

COUNTS = 9


def transfer(
    encoder: Experiment,
    task: str = "segmentation",
    inputs: tuple[str, ...] = ("rgb",),
    *,
    labelled: int = 400,
    start: Experiment | None = None,
    target: Modality | None = None,
) -> Experiment:
    """A head for `task` on the encoder of a MultiMAE experiment, fine-tuned on `labelled` scenes with the given inputs.

    start:  the pretraining, `encoder` itself unless given; adapters of maps that it does not have start fresh.
    target: of segmentation and depth, the map of that name unless given.
    """
    system, known = encoder.system, {m.name: m for m in encoder.data.modalities}
    c = system.encoder
    heads: dict[str, tuple[Any, str, Any]] = {
        "segmentation": (ConvNeXt(4 * c.width, 2), "fused_tokens", known.get("semseg")),
        "depth": (Dpt(_hooks(c.depth), (16, 24, 32, 48), 32), "fused_token_layers", known["depth"]),
        "classification": (Linear(), "fused", modality.label("n_objects", COUNTS)),
    }
    head, features, own = heads[task]
    target = target or own
    config = Config(system, encoder.data.modalities, features, inputs, target, head)
    source = replace(getattr(encoder.data.source, "source", encoder.data.source), n_train=labelled)
    data = replace(encoder.data, source=source, modalities=(*(known[k] for k in inputs), target), batch_size=32)
    donor = start or encoder
    pretrained = Pretrained(donor, parts([m.name for m in donor.system.maps if m.name in inputs]), follow_seed=True)
    truth = "n_objects" if task == "classification" else config.map
    return Experiment(
        config, data, (Phase("fine-tune", 300, start=(pretrained,)),),
        Optim(lr=1e-3, warmup=20, weight_decay=0.05, b2=0.95, clip=None, layer_decay=0.75),
        (Predicted(truth, inputs),), Train(log_every=25),
    )  # fmt: skip


def parts(maps: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The parameters of a pretrained MultiMAE: encoder, global tokens and the adapters of these maps."""
    return tuple((f"{k}/", f"encoder/{k}/") for k in ("encoder", "global", *(f"in_{m}" for m in maps)))


def _hooks(depth: int) -> tuple[int, int, int, int]:
    """Four layers at equal distances, the last among them."""
    a, b, c, d = (max(0, depth * i // 4 - 1) for i in (1, 2, 3, 4))
    return a, b, c, d


def scratch(e: Experiment) -> Experiment:
    """Without pretraining; every layer has the full rate."""
    return replace(e, phases=tuple(replace(p, start=()) for p in e.phases), optim=replace(e.optim, layer_decay=1.0))


def probe(e: Experiment) -> Experiment:
    """With a frozen encoder."""
    return replace(e, phases=(replace(e.phases[0], name="probe", trainable=finetune.HEAD_ONLY),))


def small(variant: str = "") -> Experiment:
    start = multimae.small()
    if variant == "probe":
        return probe(transfer(start))
    if variant == "rgbd":
        return transfer(start, inputs=("rgb", "depth"))
    return transfer(start, variant or "segmentation")


def tiny() -> Experiment:
    e = transfer(multimae.tiny(), labelled=64)
    data, optim = replace(e.data, batch_size=8), replace(e.optim, warmup=0)
    return replace(e, data=data, phases=(Phase("fine-tune", 4),), optim=optim, train=Train(log_every=2))


def paper() -> Experiment:
    """ADE20K's recipe: 64 epochs of 20,210 images."""
    start = multimae.paper()
    rgb, semseg = modality.image("rgb", 512, patch=16), modality.label_map("semseg", 512, 150, patch=16)
    rgb = replace(rgb, mean=start.data.modalities[0].mean, std=start.data.modalities[0].std)
    encoder = replace(
        start.system, maps=(multimae.dense(rgb),), tasks=multimae.TASKS[:1], encoder=replace(start.system.encoder, drop_path=0.1)
    )  # fmt: skip
    config = Config(encoder, (rgb,), "rgb_tokens", ("rgb",), semseg, ConvNeXt(), dtype="bfloat16")
    source = SceneData(20_210, 2000, 2000, size=512, sensors=("rgb", "semseg"), world=multimae.WORLD)
    data = Data(source, (rgb, semseg), batch_size=16, eval_batch_size=16)
    optim = Optim(lr=1e-4, warmup=1263, weight_decay=0.05, clip=None, b2=0.999, layer_decay=0.75)
    phase = Phase("fine-tune", 80_840, start=(Pretrained(start, parts(["rgb"])),))
    return Experiment(config, data, (phase,), optim, (Predicted(config.map),), sharding=(Rule(".*", "fsdp"),))
