"""UnIVAL's proof: balanced tasks, and merged weights."""

from dataclasses import replace
from typing import Any

from configs.fusion.unival.base import TASKS, model, rooms
from mmrep.config import Arm, Expect, Experiment, Pretrained, Proof, Train
from mmrep.data.mixture import Balanced, Part
from mmrep.data.rooms import Rooms
from mmrep.interop.merge import mix
from mmrep.model import Model
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.system import Extras, Params
from mmrep.systems.fusion.unival.evals import TaskAnswers
from mmrep.training.loop import train

STEPS, KEPT = 1500, (("net/", "net/"), ("decoder/", "decoder/"))


def few(balance: bool = True, steps: int = 500, tasks: tuple[str, ...] = TASKS, **settings: Any) -> Experiment:
    """8,000 captions, 800 questions, 400 regions of pictures of two things in nine places."""
    of = Rooms(9200, ordered=True)
    own = tuple(Part((task,), n) for task, n in (("caption", 8000), ("question", 800), ("ground", 400)))
    source: Any = Balanced(of, TASKS, own, balance) if tasks == TASKS else of
    tokens = ImageEncoder(TransformerConfig(width=48, depth=0, heads=4), patch=4)
    system = replace(model(48, 1, 80, 6, image=tokens), match=False)
    return rooms(system, source, of, stages=((("image",), steps),), batch=48, lr=2e-3, tasks=tasks, **settings)


def merged(seed: int) -> dict[str, float]:
    """Exact answers, the mean of captions and regions, of two fine-tunings from one start, of their average, and of one with another start."""

    def tuned(task: str, start: int) -> Model:
        base = few(steps=STEPS, train=Train(seed=start, log_every=50))
        config = few(steps=80, tasks=(task,), train=Train(seed=seed, log_every=50))
        phases = (replace(config.phases[0], start=(Pretrained(base, KEPT),)),)
        return train(replace(config, phases=phases, evals=()), progress=False)

    def score(*models: Model) -> float:
        one, weights = models[0], [1 / len(models)] * len(models)
        whole = Model(one.experiment, mix([m.params for m in models], weights), one.extras, one.sentencepiece)
        data = replace(one.data, source=replace(one.data.source, tasks=TASKS))
        return TaskAnswers(("caption", "ground")).run(whole.on(data))["mean of tasks"]

    first, second, other = tuned("caption", seed), tuned("ground", seed), tuned("ground", seed + 1000)
    return {
        "ends": (score(first) + score(second)) / 2, "middle": score(first, second), "middle of two starts": score(first, other),
    }  # fmt: skip


def unchanged(params: Params, extras: Extras, context: Any) -> tuple[Params, Extras]:
    return params, extras


def get_proof() -> Proof:
    base = few(steps=STEPS)
    start = (Pretrained(base, KEPT, follow_seed=True),)
    balanced = replace(base, phases=(replace(base.phases[0], run=unchanged, start=start),))
    return Proof(
        claim="Tasks drawn alike are all learnt, where tasks drawn by their size leave the small ones behind. The average of two models that "
        "were fine-tuned from one start does both tasks; from two starts it does neither.",
        metric="worst task",
        arms=(Arm("balanced", balanced), Arm("proportional", few(False, steps=STEPS)), Arm("merged", run=merged)),
        expects=(
            Expect("balanced", "proportional", 0.15, "the worst of three tasks gains by balancing"),
            Expect("balanced/mean of tasks", "proportional/mean of tasks", 0.0, "and their mean does not lose", slack=0.01),
            Expect("merged/middle", "merged/ends", 0.02, "the average of two fine-tunings is above the line between them"),
            Expect("merged/middle", "merged/middle of two starts", 0.3, "only if they have one start"),
        ),
        seeds=(10, 11, 12),
        data="synthetic rooms: two things in nine places",
        notes="The balanced model is the start of the fine-tunings as well, and is trained once a seed. Each fine-tuning has 80 steps.",
    )  # fmt: skip
