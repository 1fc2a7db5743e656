"""4M-21's proof: modalities that are added to a trained model, at equal target tokens a modality."""

from collections.abc import Sequence
from typing import Any

from configs.masked import _fourm_shared as shared
from configs.masked.fourm21.base import NAMES, SEVEN, SHARED, data, mixtures, modalities, token_modalities
from mmrep.config import Arm, Expect, Experiment, Proof
from mmrep.systems.masked.fourm.evals import TokenAccuracy
from mmrep.systems.masked.fourm.steering import PredictedRetrieval

BASE_STEPS, LATER_STEPS, TARGETS = 900, 600, 48
PARTS = modalities(16, caption=12)  # grids of 4 x 4
ADDED = ("edges", "instances", "palette", "metadata", "pose", "teacher")
NEW = TokenAccuracy(("pixels",), ADDED, name="new")


def experiment(
    names: Sequence[str], steps: int, targets: int, evals: tuple[Any, ...], start: Experiment | None = None
) -> Experiment:
    tokens = token_modalities(names, PARTS)
    system = shared.small_system(tokens, mixtures(names), num_input_tokens=32, num_target_tokens=targets)
    return shared.small_experiment(system, data(names, PARTS), steps, evals, start)


def get_proof() -> Proof:
    base = experiment(SEVEN, BASE_STEPS, TARGETS, (SHARED,))
    evals = SHARED, NEW, PredictedRetrieval(("depth", "palette"))
    return Proof(
        claim="Six modalities that are added to a trained model of seven cost these nothing at equal target tokens a modality, and are learnt.",
        metric="pixels->all accuracy",
        arms=(
            Arm("base", base),
            Arm("thirteen", experiment(NAMES, LATER_STEPS, 2 * TARGETS, evals, base)),
            Arm("seven", experiment(SEVEN, LATER_STEPS, TARGETS, (SHARED,), base)),
            Arm("thirteen, as many targets", experiment(NAMES, LATER_STEPS, TARGETS, (SHARED,), base)),
        ),
        expects=(
            Expect("thirteen", "base", 0.0, "nothing is forgotten: 13 modalities, 600 steps later, >= the base model of 7"),
            Expect("thirteen", "seven", 0.0, "and >= 7 modalities trained on for as long, but for 3 points", slack=0.03),
            Expect("thirteen/new->all accuracy", "thirteen/new->all majority", 0.1, "the added modalities: over the most frequent token of each position by 10 points"),
            Expect("thirteen", "thirteen, as many targets", 0.0, "target tokens were the cost: with as many for 13 as for 7 it is worse", headline=False),
            *(Expect(f"thirteen/new->{n} accuracy", f"thirteen/new->{n} majority", 0.0, f"{n}: over the most frequent token of each position", headline=False)
              for n in ADDED),
            Expect("thirteen/depth->teacher R@10", "thirteen/depth->teacher chance_R@10", 0.03, "retrieval by predicted embeddings from depth at twice chance", headline=False),
        ),
        seeds=(10, 11, 12),
        notes="Scenes of 16 x 16 pixels, maps of 4 x 4 tokens. All arms but the base continue from it. Generation steered by metadata and palettes (the variant `steering`) is "
        "not part of the proof. Test seeds 0 to 2 of the former proof, at equal tokens of all modalities together, had been seen.",
    )  # fmt: skip
