"""How many tokens are decoded at each step, how hot, and under which guidance (Mizrahi et al. 2023, 4M, appendix on generation)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mmrep.errors import ConfigError, near

COLDEST = 1e-9


def linear_tokens(steps: int, total: int) -> Int[np.ndarray, " S"]:
    """`total` tokens in as even parts as there are, the larger ones first; fewer parts than `steps` where there are not enough tokens."""
    _check(steps, total)
    parts = np.sort(np.diff(np.linspace(0, total, steps + 1, dtype=int)))[::-1]
    return parts[parts > 0]


def cosine_tokens(steps: int, total: int) -> Int[np.ndarray, " {steps}"]:
    """Few tokens first, more and more later: what is left follows (1 + cos(pi i / S)) / 2 (Chang et al. 2022, MaskGIT).

    Each part is rounded, half to even, and the last takes what is left over; a part may be 0.
    """
    _check(steps, total)
    left = (1 + np.cos(np.pi * np.arange(steps) / steps)) / 2
    parts = [round(total * p) for p in (left[:-1] - left[1:])]
    return np.array([*parts, total - sum(parts)], int)


def _check(steps: int, total: int) -> None:
    if steps < 1 or total < 1:
        raise ConfigError(f"a schedule of {steps} steps for {total} tokens: both must be at least 1")


def linear_temperature(start: float, tokens: Int[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    """`start` at first, then `start` times the share of tokens that was left before the step."""
    left = tokens.sum() - tokens.cumsum()
    return np.maximum(start * np.concatenate([[1.0], left[:-1] / tokens.sum()]), COLDEST)


def onex_temperature(
    start: float, end: float, tokens: Int[np.ndarray, " S"], power: float = 0.5
) -> Float[np.ndarray, " S"]:
    """From `start` towards `end` as x^-power falls over x in [1, 100], times the share of tokens still left after the step."""
    if len(tokens) > tokens.sum():
        raise ConfigError("an onex temperature needs at least as many tokens as steps")
    curve = np.linspace(1, 100, int(tokens.sum())) ** -power
    curve = (curve - curve.min()) / max(np.ptp(curve), COLDEST)
    left = 1 - tokens.cumsum() / tokens.sum()
    return np.maximum(end + (start - end) * left * curve[: len(tokens)], COLDEST)


@dataclass(frozen=True)
class Guide:
    """A condition: what goes in beside everything that no guide names, and its weight (negative: away from it).

    Logits are l_u + sum_i weight_i (l_i - l_u), l_u those with every guide's streams emptied.
    """

    streams: tuple[str, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Target:
    """One modality to generate, and how.

    scheme:      "maskgit": all open places are sampled, the surest are kept.   "roar": random places are decoded, all of them kept.
                 "autoregressive": a text, from its first sentinel on.
    steps:       of maskgit and roar.   tokens: "cosine" or "linear" (roar is always linear).
    temperature: 0 takes the likeliest.   cooling: "constant", "linear" or "onex:END:POWER".
    top_k:       sample among so many likeliest, or among that share of the vocabulary where below 1; 0: all.
    top_p:       among the fewest that hold that much probability; 0: all.
    guides:      conditions by name with weights; none: everything given is simply seen.
    """

    stream: str
    scheme: Literal["maskgit", "roar", "autoregressive"] = "maskgit"
    steps: int = 8
    tokens: Literal["cosine", "linear"] = "cosine"
    temperature: float = 1.0
    cooling: str = "constant"
    top_k: float = 0.0
    top_p: float = 0.0
    guides: tuple[Guide, ...] = ()

    def check(self) -> None:
        """Raises ConfigError naming the field."""
        for name, known in (
            ("scheme", ("maskgit", "roar", "autoregressive")),
            ("tokens", ("cosine", "linear")),
            ("cooling", ("constant", "linear", "onex")),
        ):
            value = str(getattr(self, name)).partition(":")[0]
            if value not in known:
                raise ConfigError(f"target {self.stream!r}: {name} is {value!r}{near(value, known)}")
        if self.steps < 1 or self.temperature < 0 or self.top_k < 0 or not 0 <= self.top_p <= 1:
            raise ConfigError(
                f"target {self.stream!r}: steps >= 1, temperature and top_k >= 0 and top_p in [0, 1]; found steps {self.steps}, "
                f"temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p}"
            )
        if self.top_k >= 1 and self.top_k != int(self.top_k):
            raise ConfigError(f"target {self.stream!r}: top_k is {self.top_k}: a whole number, or a share below 1")


class Step(NamedTuple):
    """tokens: how many are decided.   temperature: of the sampling."""

    tokens: int
    temperature: float


def steps_of(target: Target, total: int) -> list[Step]:
    """The steps that decide `total` open tokens of an image stream. Raises ConfigError for settings that cannot work."""
    target.check()
    linear = target.scheme == "roar" or target.tokens == "linear"
    parts = (linear_tokens if linear else cosine_tokens)(target.steps, total)
    kind, *numbers = target.cooling.split(":")
    if kind == "constant":
        heat = np.full(len(parts), target.temperature)
    elif kind == "linear":
        heat = linear_temperature(target.temperature, parts)
    else:
        try:
            end, power = (float(n) for n in numbers)
        except ValueError:
            raise ConfigError(
                f"target {target.stream!r}: cooling {target.cooling!r} is written onex:END:POWER"
            ) from None
        heat = onex_temperature(target.temperature, end, parts, power)
    return [Step(int(n), float(t)) for n, t in zip(parts, heat) if n]


def chain(
    streams: Sequence[str], given: Sequence[str] = (), guidance: float = 1.0, grow: bool = False, **settings: object
) -> tuple[Target, ...]:
    """One Target a stream, in order, with the same settings: what is finished goes in for the next.

    guidance: weight of the condition `given`; 1 needs no second pass.   grow: what is finished joins that condition.
    """
    found, condition = [], tuple(given)
    for name in streams:
        guides = (Guide(condition, guidance),) if guidance != 1.0 and condition else ()
        found.append(Target(name, guides=guides, **settings))  # type: ignore[arg-type]
        if grow:
            condition = (*condition, name)
    return tuple(found)
