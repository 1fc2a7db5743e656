"""UnIVAL: one text-to-text model of images, videos, sounds and language (Shukor et al., TMLR 2023)

UnIVAL: Unified Model for Image, Video, Audio and Language Tasks, arXiv 2307.16184.
    python -m experiments.train unival
    python -m experiments.train unival --variant sound
    python -m experiments.prove unival
    python -m experiments.generate unival --targets written --given image=FILE --given "prompt=what does the image describe"
Data: synthetic rooms; first images, then images and videos, and for the variant sounds, from the trained model. Data of your own:
Tasks(Table("pairs.csv", text=("caption", "question", "reply")), tasks=("caption", "question")), with the columns `image` (or `video`, `audio`),
`caption`, and for questions `question` and `reply`; regions need `thing` and `box` (extra columns; four numbers in [0, 1]).
"""

from configs.fusion.unival.proof import get_proof
from configs.fusion.unival.sizes import get_config

SIZES = ("tiny", "small", "paper")
VARIANTS = ("sound",)

__all__ = ["SIZES", "VARIANTS", "get_config", "get_proof"]
