"""Any-to-any generation with a masked token model: schedules, sampling and the one `generate`."""

from mmrep.generation.canvas import Canvas, blank, fill, left_open, merge_spans
from mmrep.generation.generate import TokenInfer, generate
from mmrep.generation.predict import along_text, likeliest, whole_stream
from mmrep.generation.schedules import Guide, Target, chain

__all__ = [
    "Canvas", "Guide", "Target", "TokenInfer", "along_text", "blank", "chain", "fill", "generate", "left_open", "likeliest", "merge_spans",
    "whole_stream",
]  # fmt: skip
