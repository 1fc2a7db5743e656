"""Synthetic clips: one latent timeline of events that are seen and heard, and many sensors."""

from mmrep.data.clips.source import ClipData
from mmrep.data.clips.timeline import ClipSpec

__all__ = ["ClipData", "ClipSpec"]
