"""Synthetic scenes: one latent scene graph and many sensors, each a file with one pure function of the scenes."""

from mmrep.data.scenes.captions import CaptionSpec, Noise
from mmrep.data.scenes.source import Joint, SceneData
from mmrep.data.scenes.world import WorldSpec, domain, recolour, sample, swapped

__all__ = ["CaptionSpec", "Joint", "Noise", "SceneData", "WorldSpec", "domain", "recolour", "sample", "swapped"]
