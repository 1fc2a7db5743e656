"""What MultiMAE's pretraining is worth: the arms and what is expected of them."""

from configs.masked import multimae
from configs.recipes.multimae_transfer import probe, scratch, transfer
from mmrep.config import Arm, Expect, Proof


def get_proof() -> Proof:
    base, n = multimae.made(steps=1500, evals=()), 200
    mae = multimae.made(multimae.ALONE, 1500, ())
    both = "rgb", "depth"
    return Proof(
        claim="What MultiMAE learnt without labels of this task helps a model fine-tuned on few: more than masked autoencoding of colour, and so does depth as a second input.",
        metric="semseg|rgb mIoU",
        arms=(
            Arm("multi", transfer(base, labelled=n)), Arm("mae", transfer(base, labelled=n, start=mae)),
            Arm("scratch", scratch(transfer(base, labelled=n))), Arm("probe", probe(transfer(base, labelled=n))),
            Arm("multi, both", transfer(base, "segmentation", both, n)), Arm("mae, both", transfer(base, "segmentation", both, n, mae)),
            Arm("multi, depth", transfer(base, "depth", labelled=n)), Arm("mae, depth", transfer(base, "depth", labelled=n, start=mae)),
            Arm("scratch, depth", scratch(transfer(base, "depth", labelled=n))),
            Arm("multi, count", transfer(base, "classification", labelled=n)), Arm("scratch, count", scratch(transfer(base, "classification", labelled=n))),
        ),
        expects=(
            Expect("multi", "scratch", 0.03, "segmentation from colour: MultiMAE > no pretraining"),
            Expect("multi", "mae", 0.0, "and > a masked autoencoder of colour"),
            Expect("multi", "probe", 0.0, "fine-tuned > frozen", headline=False),
            Expect("multi, both/semseg|rgb+depth mIoU", "multi", 0.02, "a second map helps MultiMAE"),
            Expect("multi, both/semseg|rgb+depth mIoU", "mae, both/semseg|rgb+depth mIoU", 0.0, "more than a masked autoencoder with a fresh adapter for it"),
            Expect("scratch, depth/depth|rgb L1", "multi, depth/depth|rgb L1", 0.0, "depth from colour: MultiMAE < no pretraining"),
            Expect("mae, depth/depth|rgb L1", "multi, depth/depth|rgb L1", 0.0, "and < a masked autoencoder of colour"),
            Expect("multi, count/n_objects|rgb accuracy", "scratch, count/n_objects|rgb accuracy", 0.0, "counting: MultiMAE > no pretraining", headline=False),
        ),
        notes="Pretrained 1,500 steps on 8,000 scenes, class maps among them, anew for each seed; fine-tuned 300 steps on 200. On val, seed 100, as stated: "
        "multi .337, mae .326, scratch .307; nothing was changed after.",
    )  # fmt: skip
