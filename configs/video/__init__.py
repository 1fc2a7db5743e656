"""Videos and texts: retrieval, events and their order, moments.

**Which one to take.** A mean of frame embeddings (CLIP's, or X-Pool with `system.pool=mean`) is a strong start where the caption describes the whole clip.

- The caption names one part of a longer clip: X-Pool, in which the text chooses the frames; TEFAL, in which it chooses the sounds, too. Both cost a pooling
  for each pair of text and clip, so re-rank the best candidates of the mean in a large gallery.
- A large gallery, one vector a clip: Prompt Switch, whose frames exchange prompts inside the encoder, so that the dot product stays.
- The order of events matters (before, then, after): EA-VTR, a dual encoder; HiTeA, with fusion, where parts of a clip are to meet parts of a text.
- Which word goes with which frame: HBI, which weighs words and frames by their interaction.
- The answer is a moment: G2L where an event may recur unannotated; VideoLights for moments and highlights together. Both take features of clips.
- Captions, questions, or sound as a third modality: VALOR, CoAVT and FAVOR in [fusion](fusion.md).

Own clips are a `Folder` or `Table` of films, animations or folders of frames: see [data](../data.md#clips). The report of a run shows them as strips of frames
with attention, moments or saliency below. The proofs run on synthetic codes of frames, the `small` configs on frames and sound.
"""
