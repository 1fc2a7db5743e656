"""Symile's proof: its arms and what is expected of them."""

from configs.contrastive.symile.base import polyglot, xor
from mmrep.config import Arm, Expect, Proof


def get_proof() -> Proof:
    image = "image|text,speech R@1"
    return Proof(
        claim="Symile captures information present only jointly in three modalities; pairwise CLIP and a sum of pairs cannot.",
        metric="b|a,c R@1",
        arms=(
            Arm("symile", xor(1.0)), Arm("pairwise", xor(1.0, "pairwise")), Arm("sum", xor(1.0, "sum")),
            Arm("symile p=0", xor(0.0)),
            Arm("words symile", polyglot()), Arm("words pairwise", polyglot("pairwise")),
        ),
        expects=(
            Expect(better="symile", worse=0.95, statement="at p = 1, Symile predicts b from a and c"),
            Expect(
                better="symile", worse="pairwise", margin=0.5,
                statement="50 points more often than pairwise CLIP, which cannot exceed chance, 1/8",
            ),
            Expect(
                better=f"words symile/{image}", worse=0.35,
                statement="with 4 languages, Symile retrieves the image from text and speech more often than 1/4 + .1; no score of pairs can exceed 1/4",
            ),
            Expect(
                better=f"words symile/{image}", worse=f"words pairwise/{image}", margin=0.2,
                statement="20 points more often than pairwise CLIP",
            ),
            Expect(
                better="symile", worse="sum", margin=0.5, headline=False,
                statement="Symile's tuples scored by a sum of pairs stay at chance: the product captures the XOR",
            ),
            Expect(
                better=0.2, worse="symile p=0", headline=False,
                statement="at p = 0 b is independent of a and c, and Symile does not predict it",
            ),
            Expect(
                better="symile p=0/c|a,b R@1", worse=0.95, headline=False, statement="at p = 0, Symile predicts c, the copy of a"
            ),
            Expect(
                better="symile p=0/c|a, b averaged R@1", worse=0.95, headline=False,
                statement="an unobserved modality can be replaced by its mean",
            ),
            Expect(
                better="symile p=0/c|a R@1", worse=0.95, headline=False,
                statement="or be left out of the product, as in the paper",
            ),
        ),
        seeds=(10, 11, 12),
        data="XOR bits; synthetic triples of image, text and speech",
        notes="The ceiling of a score of pairs is exact: 1/8 for the bits, 1 language in 4 for the words. A modality left out of the product may flip the "
        "score's sign, since modalities may change signs in pairs; its mean does not.",
    )  # fmt: skip
