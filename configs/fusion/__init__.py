"""Encoders in which the tokens of several modalities attend to each other, trained to match, to answer and to predict what is hidden.

**Which one to take.** A dual encoder embeds a gallery once; a fusion encoder must see each pair, but distinguishes who does what to whom.

- Pictures and texts, to search and to re-rank: ALBEF, contrast for the search and fusion for the best candidates. Start here.
- Questions about details of pictures: BridgeTower, which brings every layer of the unimodal encoders to the fusion.
- One network for pairs, pictures alone and texts alone: PTUnifier, with learned stand-ins for what is missing; Uni-Perceiver where every task, also
  a later one, is a choice among encoded candidates.
- Pictures, sounds and texts in one network, to embed each alone or to fuse them: ONE-PEACE, extended by a modality at a time while the rest is frozen.
- Many tasks over pictures, clips, sounds and texts, each as a prompt and a written answer: UnIVAL.
- Clips with sound: VALOR to search by what is seen, heard, or both, and to caption each of them; CoAVT for the same through a few learned queries,
  with matching; FAVOR to answer questions about what is seen while something is heard. To search alone, see TEFAL in [video](video.md).
- Tables of clinical or sensor data with missing parts: MultiModN, which passes a state through one encoder a modality and skips those.
- Mentions to be linked to entities with pictures: M3EL.
- Code, with its comments and syntax trees: UniXcoder.
- To compare architectures: gCOG, a synthetic world with tests of generalisation.

**What may be missing.** A row without sound is marked by `sounds` 0 (VALOR, CoAVT, FAVOR), one without a picture by `present` 0 (M3EL), a missing vector by
NaN (MultiModN): in training and at test the values in its place change nothing. PTUnifier and Uni-Perceiver encode each modality alone; so do ALBEF and
BridgeTower, whose fusion needs both. For hidden words and objects see LXMERT in [masked](masked.md).
"""
