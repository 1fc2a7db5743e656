"""Training on one data set after another, or on data that may not be brought together, without losing what the earlier ones taught.

**Which one to take.** Mod-X keeps the similarities of the model of the phase before, and needs none of its data; compare it with plain training at
a lower rate, which is cheaper. Where the data may not leave its owners, clients that exchange embeddings instead of weights are federated learning:
CreamFL.
"""
