"""What `fourm_scenes` is trained to predict from what, phase by phase: mixtures of input and target budgets."""

from dataclasses import replace

from mmrep.systems.masked.fourm.masking import DirichletMixture, alphas

IMAGES = ("rgb", "depth", "normals", "semseg")
TEXTS = ("caption", "boxes", "palette")
WHOLE = tuple((name, "all") for name in TEXTS)
# A whole picture, as pixels, to all else, and to its own tokens, so that these are learnt.
FROM_PIXELS = DirichletMixture(alphas(pixels=1000.0), alphas(semseg=2.5, rgb=2.0, caption=1.5, boxes=0.7), weight=2.0)
# What chains from a caption need: boxes, then classes, then pictures, each from all before it.
FROM_CAPTION = DirichletMixture(
    alphas(caption=1.0, boxes=0.7, semseg=0.3, rgb=0.1), alphas(semseg=1.5, boxes=0.7, rgb=0.7), keep=WHOLE
)
FROM_CLASSES = DirichletMixture(alphas(caption=16.0, semseg=62.0, rgb=1.0), alphas(rgb=1.0), weight=1.5, keep=WHOLE)
FROM_PARTS = DirichletMixture(
    alphas(caption=1.0, boxes=0.3, semseg=1.0, rgb=0.7), alphas(rgb=1.0, semseg=1.0), weight=0.7, keep=WHOLE
)
# The first phases are of what learns slowly: a mean over modalities would give easy ones half of the gradient. Classes from words are the last to
# become good, so the second phase has more of them.
FIRST = FROM_PIXELS, FROM_CAPTION, FROM_CLASSES, FROM_PARTS
SECOND = (
    replace(FROM_PIXELS, weight=1.6),
    replace(FROM_CAPTION, targets=alphas(semseg=2.0, boxes=0.7, rgb=0.4), weight=2.0),
    replace(FROM_CLASSES, weight=0.8),
    replace(FROM_PARTS, inputs=alphas(caption=1.0, boxes=0.8, semseg=1.0, rgb=0.3), weight=1.0),
)
MAPS = ("depth", 0.4), ("normals", 0.3), ("palette", 0.3)
LAST = (
    *(replace(x, targets=(*x.targets, *MAPS)) for x in SECOND[:2]),
    *SECOND[2:],
    DirichletMixture(alphas((*IMAGES, *TEXTS), 0.3), alphas((*IMAGES, *TEXTS), 0.3), weight=0.4),
)
