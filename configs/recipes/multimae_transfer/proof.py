"""What MultiMAE's pretraining is worth for fine-tuning with few labels."""

from configs.masked import _multimae as multimae
from configs.recipes.multimae_transfer.base import probe, scratch, transfer
from mmrep.config import Arm, Expect, Proof


def get_proof() -> Proof:
    multi, mae = multimae.experiment(steps=1500, evals=()), multimae.experiment(multimae.MAE, 1500, ())
    few, both = {"labelled": 200}, {"labelled": 200, "inputs": ("rgb", "depth")}
    return Proof(
        claim="MultiMAE's pretraining improves fine-tuning with few labels more than masked autoencoding of RGB does, and more so with depth as a second input.",
        metric="semseg|rgb mIoU",
        arms=(
            Arm("multi", transfer(multi, **few)), Arm("mae", transfer(multi, **few, start=mae)),
            Arm("scratch", scratch(transfer(multi, **few))), Arm("probe", probe(transfer(multi, **few))),
            Arm("multi, both", transfer(multi, **both)), Arm("mae, both", transfer(multi, **both, start=mae)),
            Arm("multi, depth", transfer(multi, "depth", **few)), Arm("mae, depth", transfer(multi, "depth", **few, start=mae)),
            Arm("scratch, depth", scratch(transfer(multi, "depth", **few))),
            Arm("multi, count", transfer(multi, "classification", **few)), Arm("scratch, count", scratch(transfer(multi, "classification", **few))),
        ),
        expects=(
            Expect("multi", "scratch", 0.03, "segmentation from RGB: MultiMAE > no pretraining"),
            Expect("multi", "mae", 0.0, "and > a masked autoencoder of RGB"),
            Expect("multi", "probe", 0.0, "fine-tuned > frozen", headline=False),
            Expect("multi, both/semseg|rgb+depth mIoU", "multi", 0.02, "a second map helps MultiMAE"),
            Expect("multi, both/semseg|rgb+depth mIoU", "mae, both/semseg|rgb+depth mIoU", 0.0, "more than a masked autoencoder with a fresh adapter for it"),
            Expect("scratch, depth/depth|rgb L1", "multi, depth/depth|rgb L1", 0.0, "depth from RGB: MultiMAE < no pretraining"),
            Expect("mae, depth/depth|rgb L1", "multi, depth/depth|rgb L1", 0.0, "and < a masked autoencoder of RGB"),
            Expect("multi, count/n_objects|rgb accuracy", "scratch, count/n_objects|rgb accuracy", 0.0, "counting: MultiMAE > no pretraining", headline=False),
        ),
        notes="Pretrained 1,500 steps on 8,000 scenes, class maps among the modalities, again for each seed; fine-tuned 300 steps on 200 scenes.",
    )  # fmt: skip
