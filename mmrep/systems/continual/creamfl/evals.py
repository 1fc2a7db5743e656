"""How far the server trusted each client."""

from dataclasses import dataclass

from mmrep.model import Model


@dataclass(frozen=True)
class Trust:
    """ "trust <client>", the mean weight of a client in the last aggregate, in [0, 1], over its modalities; "megabytes" sent in all rounds.

    few: clients whose summed weight is "trust of few"; equal weights would be their share of the clients.
    """

    few: tuple[str, ...] = ()

    def run(self, model: Model) -> dict[str, float]:
        trust = model.extras["trust"]
        names = list(dict.fromkeys(name for of in trust.values() for name in of))
        found = {}
        for name in names:
            own = [float(of[name]) for of in trust.values() if name in of]
            found[f"trust {name}"] = sum(own) / len(own)
        if self.few:
            found["trust of few"] = sum(sum(float(of[n]) for n in self.few if n in of) for of in trust.values()) / len(
                trust
            )
        return found | {"megabytes": float(model.extras["megabytes"])}
