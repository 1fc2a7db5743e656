"""4M at its small size: what all of its other sizes, variants and proof arms start from."""

from configs.masked import _fourm_shared as shared
from mmrep.config import Data, Experiment, Tokenizer
from mmrep.evals.dense import Segmentation
from mmrep.nn.maps import dense
from mmrep.systems.masked.fourm import Config
from mmrep.systems.masked.fourm.evals import GenerationAccuracy, TextLeak, TokenAccuracy
from mmrep.systems.masked.fourm.masking import DirichletMixture, alphas
from mmrep.systems.masked.fourm.panels import Panels
from mmrep.systems.masked.fourm.schedules import Guidance, Target

PARTS = shared.modalities()
IMAGES = ("rgb", "depth", "normals", "semseg")
TARGETS = (*IMAGES, "caption")
# Half of the time pixels alone are the input and all else is predicted, half of the time all predicts all.
FROM_PIXELS = DirichletMixture(alphas(pixels=1000.0), alphas(TARGETS))
ALL_TO_ALL = DirichletMixture(alphas(("pixels", *TARGETS)), alphas(TARGETS))
# The paper's text-to-image bias, with whole captions: all to all rarely gives a caption as the only input.
WHOLE = (("caption", "all"),)
FROM_CAPTION = DirichletMixture(alphas(("pixels", *IMAGES), 0.05, caption=5.0), alphas(IMAGES), keep=WHOLE)
SMALL = shared.small_system(shared.token_modalities(PARTS), (FROM_PIXELS, ALL_TO_ALL, FROM_CAPTION))

ACCURACY = TokenAccuracy(("pixels",), ("depth", "semseg", "caption"))
CROSS = TokenAccuracy(("depth",), ("semseg", "normals"))
SEMSEG = dense(next(m for m in PARTS if m.name == "semseg"))
PROBE = Segmentation(SEMSEG, ("pixels",), name="probe")  # the encoder as a plain ViT


def data(parts: tuple = PARTS, n_train: int = 8000, n_eval: int = 400, batch: int = 32) -> Data:
    size = next(m.shape[0] for m in parts if m.name == "pixels")
    vocab = next(m.vocab for m in parts if m.name == "caption")
    source = shared.scenes(size, n_train, n_eval)
    return Data(source, parts, Tokenizer(vocab, kind="word"), batch_size=batch, eval_batch_size=100)


def guided(scale: float, chained: bool = True, steps: int = 8) -> tuple[Target, ...]:
    """Caption to colour, chained through classes or directly."""
    guidance = (Guidance(("caption",), scale),)
    classes = Target("semseg", "roar", guidance=guidance)
    return (classes,) * chained + (Target("rgb", "roar", steps, temperature=0.7, guidance=guidance),)


GENERATION = (
    *(GenerationAccuracy(("caption",), guided(w), f"chained, guidance {w:g}") for w in (0.0, 1.0, 3.0)),
    GenerationAccuracy(("caption",), guided(3.0, False), "direct, guidance 3"),
    GenerationAccuracy(("caption",), guided(3.0, False, 1), "direct, 1 step"),
)
EVALS = (ACCURACY, CROSS, TextLeak(), *GENERATION, PROBE)


def experiment(
    system: Config = SMALL, steps: int = 2000, evals: tuple = (ACCURACY, CROSS), start: Experiment | None = None
) -> Experiment:
    return shared.small_experiment(system, data(), steps, evals, start)


def small() -> Experiment:
    return experiment(evals=(*EVALS, Panels()))
