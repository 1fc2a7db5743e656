"""MultiMAE put to use: classes, segmentation or depth from any of its maps (Bachmann et al., ECCV 2022)

Multi-modal multi-task masked autoencoders, arXiv 2204.01678, section 4. A pretrained `multimae`, no masking, one head; it is trained first
where no run of it is cached.
    python -m experiments.train multimae_transfer                                       segmentation from colour, fine-tuned
    python -m experiments.train multimae_transfer --size probe                          the same with the encoder frozen
    python -m experiments.train multimae_transfer --size rgbd                           ... fine-tuned, from colour and depth
    python -m experiments.train multimae_transfer --size depth                          depth from colour, by a DPT head
    python -m experiments.train multimae_transfer --size classification                 how many things there are
On 200 labelled scenes (three seeds): mIoU .338, of masked autoencoding .332, from scratch .316; with depth given too .415 and .388.
"""

from dataclasses import replace

from configs.masked import multimae
from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Pretrained, Proof, Rule, Train
from mmrep.data.scenes.source import SceneData
from mmrep.evals.dense import Predicted
from mmrep.nn.maps import Map
from mmrep.systems.recipes.multimae_transfer import Config, parts

SIZES = ("tiny", "small", "probe", "rgbd", "depth", "classification", "paper")
COUNTS = 9


def transfer(
    whole: Experiment,
    task: str = "segmentation",
    given: tuple[str, ...] = ("rgb",),
    labelled: int = 400,
    start: Experiment | None = None,
) -> Experiment:
    """A head of `task` on a MultiMAE's encoder, fine-tuned on `labelled` scenes of `whole`, from its maps `given`.

    start: the pretraining to begin from, `whole` itself unless given; of maps that it has not, the adapters start fresh.
    """
    m, source = whole.system, getattr(whole.data.source, "source", whole.data.source)
    target = None if task == "classification" else m.of("semseg" if task == "segmentation" else "depth")
    system = Config(
        tuple(x for x in m.maps if x.name in given), task, target, label="n_objects", classes=COUNTS,
        encoder=m.encoder, global_tokens=m.global_tokens, position_base=m.position_base,
        head_width=4 * m.encoder.width, head_depth=2,
        hooks=tuple(max(0, m.encoder.depth * i // 4 - 1) for i in (1, 2, 3, 4)), head_dims=(16, 24, 32, 48), features=32,
    )  # fmt: skip
    answer = modality.label("n_objects", COUNTS) if target is None else None
    wanted = {*given} | ({target.name} if target else set())
    modalities = tuple(x for x in whole.data.modalities if x.name in wanted) + ((answer,) if answer else ())
    data = replace(whole.data, source=replace(source, n_train=labelled), modalities=modalities, batch_size=32)
    base = start or whole
    kept = parts(tuple(x.name for x in base.system.maps if x.name in given))
    phase = Phase("fine-tune", 300, start=(Pretrained(base, kept, follow_seed=True),))
    optim = Optim(lr=1e-3, warmup=20, weight_decay=0.05, b2=0.95, clip=None, layer_decay=0.75)
    return Experiment(system, data, (phase,), optim, (Predicted(target or "n_objects", given),), Train(log_every=25))


def scratch(e: Experiment) -> Experiment:
    """The same without any pretraining: every layer learns at the full rate."""
    return replace(e, phases=tuple(replace(p, start=()) for p in e.phases), optim=replace(e.optim, layer_decay=1.0))


def probe(e: Experiment) -> Experiment:
    return replace(e, phases=(replace(e.phases[0], name="probe", trainable=("head/.*",)),))


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        e = transfer(multimae.get_config("tiny"), labelled=64)
        phase = Phase("fine-tune", 4)
        return replace(
            e,
            data=replace(e.data, batch_size=8),
            phases=(phase,),
            optim=replace(e.optim, warmup=0),
            train=Train(log_every=2),
        )
    if size == "paper":
        # ADE20K's recipe: 64 epochs of 20,210 pictures.
        base = multimae.get_config("paper")
        rgb = replace(base.system.maps[0], size=(512, 512))
        system = Config(
            (rgb,),
            target=Map("semseg", (512, 512), 16, classes=150),
            encoder=replace(base.system.encoder, drop_path=0.1),
            dtype="bfloat16",
        )
        source = SceneData(20_210, 2000, 2000, size=512, sensors=("rgb", "semseg"), world=multimae.WORLD)
        data = Data(
            source,
            (modality.image("rgb", 512), modality.label_map("semseg", 512, 150)),
            batch_size=16,
            eval_batch_size=16,
        )
        optim = Optim(lr=1e-4, warmup=1263, weight_decay=0.05, clip=None, b2=0.999, layer_decay=0.75)
        phase = Phase("fine-tune", 80_840, start=(Pretrained(base, parts(("rgb",))),))
        return Experiment(system, data, (phase,), optim, (Predicted(system.target),), sharding=(Rule(".*", "fsdp"),))
    base = multimae.get_config("small")
    if size == "probe":
        return probe(transfer(base))
    if size == "rgbd":
        return transfer(base, given=("rgb", "depth"))
    return transfer(base, "segmentation" if size == "small" else size)


def get_proof() -> Proof:
    from configs.masked import _multimae_transfer_proof  # which needs what stands above

    return _multimae_transfer_proof.get_proof()
