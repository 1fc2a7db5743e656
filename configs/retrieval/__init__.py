"""Search: shorter codes, better ranking, and galleries that outlive the model that embedded them.

**Which one to take.** InvGC changes stored embeddings that crowd, without training. XBT lets the queries of a new model search the gallery of
an old one. platos_cave aligns two encoders that never saw a pair, from a list of anchors (`python -m experiments.align`). RREH gives sign codes
in closed form where few pairs are known, DLCH keeps old codes valid while new categories arrive; `experiments.search` ranks both by Hamming
distance. DBL and RCAR spend more on hard negatives and on matching word by region; both are slower than a dot product at search time.
"""
