"""Encoders in which the tokens of several modalities attend to each other, trained to match, to answer and to predict what is hidden.

**Which one to take.** A dual encoder embeds a gallery once; a fusion encoder must see each pair, but distinguishes who does what to whom. ALBEF has both:
contrast for search, fusion for re-ranking. BridgeTower brings every layer of the unimodal encoders to the fusion; PTUnifier has learned stand-ins,
so that one network serves pairs and single inputs. MultiModN passes a state through one encoder a modality and skips those that are missing,
for tables of clinical or sensor data. gCOG is a synthetic world in which architectures can be told apart. M3EL links mentions to entities with
pictures. For hidden words and objects see LXMERT in [masked](masked.md).
"""
