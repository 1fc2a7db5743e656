"""Generation schedules: how many tokens each step decodes, at which temperature, under which guidance (4M, appendix on generation)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mmrep.errors import ConfigError, near

MIN_TEMPERATURE = 1e-9


def linear_schedule(steps: int, total: int) -> Int[np.ndarray, " S"]:
    """`total` tokens in parts as equal as possible, larger ones first; fewer parts than `steps` where there are fewer tokens."""
    _check(steps, total)
    parts = np.sort(np.diff(np.linspace(0, total, steps + 1, dtype=int)))[::-1]
    return parts[parts > 0]


def cosine_schedule(steps: int, total: int) -> Int[np.ndarray, " {steps}"]:
    """Few tokens first: the share that remains follows (1 + cos(pi i / S)) / 2 (Chang et al. 2022, MaskGIT).

    Each part is rounded, half to even, and the last one is the remainder; a part may be 0.
    """
    _check(steps, total)
    left = (1 + np.cos(np.pi * np.arange(steps) / steps)) / 2
    parts = [round(total * p) for p in (left[:-1] - left[1:])]
    return np.array([*parts, total - sum(parts)], int)


def _check(steps: int, total: int) -> None:
    if steps < 1 or total < 1:
        raise ConfigError(f"a schedule of {steps} steps for {total} tokens: both must be at least 1")


def linear_temperature(start: float, tokens: Int[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    """`start` times the share of tokens that remained before the step."""
    left = tokens.sum() - tokens.cumsum()
    return np.maximum(start * np.concatenate([[1.0], left[:-1] / tokens.sum()]), MIN_TEMPERATURE)


def onex_temperature(
    start: float, end: float, tokens: Int[np.ndarray, " S"], power: float = 0.5
) -> Float[np.ndarray, " S"]:
    """From `start` towards `end` as x^-power decreases over x in [1, 100], times the share of tokens that remain after the step."""
    if len(tokens) > tokens.sum():
        raise ConfigError("an onex temperature needs at least as many tokens as steps")
    curve = np.linspace(1, 100, int(tokens.sum())) ** -power
    curve = (curve - curve.min()) / max(np.ptp(curve), MIN_TEMPERATURE)
    left = 1 - tokens.cumsum() / tokens.sum()
    return np.maximum(end + (start - end) * left * curve[: len(tokens)], MIN_TEMPERATURE)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance by one condition. Logits are l_u + sum_i scale_i (l_i - l_u).

    l_u: logits with the `cond_domains` of all conditions emptied.   l_i: with those of condition i given.   A negative scale moves away.
    """

    cond_domains: tuple[str, ...]
    scale: float = 1.0


@dataclass(frozen=True)
class Target:
    """How one modality is generated.

    scheme:         "maskgit" samples all unknown tokens and keeps the most likely ones.   "roar" decodes tokens in random order.
                    "autoregressive" is for sequences.
    decoding_steps: of maskgit and roar.   token_schedule: "cosine" or "linear" (roar is always linear).
    temperature:    0 takes the argmax.   temperature_schedule: "constant", "linear" or "onex:END:POWER".
    top_k:          number of most likely tokens to sample from, or share of the vocabulary where below 1; 0: all.
    top_p:          nucleus sampling; 0: all.
    guidance:       conditions; without any, everything known conditions the one pass.
    """

    domain: str
    scheme: Literal["maskgit", "roar", "autoregressive"] = "maskgit"
    decoding_steps: int = 8
    token_schedule: Literal["cosine", "linear"] = "cosine"
    temperature: float = 1.0
    temperature_schedule: str = "constant"
    top_k: float = 0.0
    top_p: float = 0.0
    guidance: tuple[Guidance, ...] = ()

    def check(self) -> None:
        """Raises ConfigError naming the field."""
        for name, known in (
            ("scheme", ("maskgit", "roar", "autoregressive")),
            ("token_schedule", ("cosine", "linear")),
            ("temperature_schedule", ("constant", "linear", "onex")),
        ):
            value = str(getattr(self, name)).partition(":")[0]
            if value not in known:
                raise ConfigError(f"target {self.domain!r}: {name} is {value!r}{near(value, known)}")
        if self.decoding_steps < 1 or self.temperature < 0 or self.top_k < 0 or not 0 <= self.top_p <= 1:
            raise ConfigError(
                f"target {self.domain!r}: decoding_steps >= 1, temperature and top_k >= 0 and top_p in [0, 1]; found decoding_steps "
                f"{self.decoding_steps}, temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p}"
            )
        if self.top_k >= 1 and self.top_k != int(self.top_k):
            raise ConfigError(f"target {self.domain!r}: top_k is {self.top_k}: a whole number, or a share below 1")


class Step(NamedTuple):
    """One decoding step: how many tokens are decoded, and the sampling temperature."""

    num_tokens: int
    temperature: float


def decoding_schedule(target: Target, total: int) -> list[Step]:
    """The steps that decode `total` unknown tokens of an image. Raises ConfigError for settings that cannot work."""
    target.check()
    linear = target.scheme == "roar" or target.token_schedule == "linear"
    parts = (linear_schedule if linear else cosine_schedule)(target.decoding_steps, total)
    kind, *numbers = target.temperature_schedule.split(":")
    if kind == "constant":
        temperatures = np.full(len(parts), target.temperature)
    elif kind == "linear":
        temperatures = linear_temperature(target.temperature, parts)
    else:
        try:
            end, power = (float(n) for n in numbers)
        except ValueError:
            raise ConfigError(
                f"target {target.domain!r}: temperature_schedule {target.temperature_schedule!r} is written onex:END:POWER"
            ) from None
        temperatures = onex_temperature(target.temperature, end, parts, power)
    return [Step(int(n), float(t)) for n, t in zip(parts, temperatures) if n]


def chained_schedule(
    target_domains: Sequence[str],
    cond_domains: Sequence[str] = (),
    scale: float = 1.0,
    *,
    scales: Mapping[str, float] | None = None,
    grow_conditioning: bool = False,
    sequences: Sequence[str] = (),
    **settings: object,
) -> tuple[Target, ...]:
    """One Target per domain, in order, with the same settings: generated domains condition the next ones.

    scale:  guidance by all of `cond_domains` together; 1 needs no second pass.
    scales: guidance of its own for some of them, each one condition more.
    grow_conditioning: generated domains join the conditions.
    sequences: target domains that are decoded autoregressively.
    """
    scales, found = scales or {}, []
    joint = tuple(n for n in cond_domains if n not in scales)
    for name in target_domains:
        guidance = [Guidance(joint, scale)] if scale != 1.0 and joint else []
        guidance += [Guidance((n,), s) for n, s in scales.items()]
        own = settings | {"scheme": "autoregressive"} if name in sequences else settings
        found.append(Target(name, guidance=tuple(guidance), **own))  # type: ignore[arg-type]
        joint = (*joint, name) if grow_conditioning else joint
    return tuple(found)
