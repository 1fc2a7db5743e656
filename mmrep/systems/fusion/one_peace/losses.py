"""ONE-PEACE's two contrastive losses."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmrep.errors import ConfigError
from mmrep.losses.contrastive import info_nce, similarity
from mmrep.losses.reduce import masked_mean
from mmrep.nn.heads import l2_normalise


def dcl_loss(
    student: Float[Array, "B N D"], teacher: Float[Array, "B N D"], masked: Bool[Array, "B N"], valid: Bool[Array, "B N"],
    *, most: int, scale: float = 2.5, smoothing: float = 0.1, groups: int = 1,
) -> Float[Array, ""]:  # fmt: skip
    """Denoising contrast, equation 6: a masked token's feature among the teacher's of all valid tokens of the group, [CLS] left out.

    most: masked tokens of a row, at most.   groups: equal parts of the batch, each with negatives of its own. 0 where nothing is masked. Raises ConfigError unless `groups` divides the rows.
    """
    if len(student) % groups:
        raise ConfigError(f"system.parts is {groups}: it must divide the {len(student)} rows of a batch")
    student, teacher, masked, valid = (x[:, 1:] for x in (student, teacher, masked, valid))
    places = jnp.argsort(~masked, axis=1, stable=True)[:, :most]
    counted = jnp.take_along_axis(masked, places, axis=1)
    hidden = l2_normalise(jnp.take_along_axis(student, places[..., None], axis=1).astype(jnp.float32))
    keys = l2_normalise(jax.lax.stop_gradient(teacher).astype(jnp.float32))

    def one(hidden: Array, places: Array, counted: Array, keys: Array, valid: Array) -> tuple[Array, Array]:
        rows, n = valid.shape
        own = (places + n * jnp.arange(rows)[:, None]).reshape(-1)
        logits = scale * similarity(hidden.reshape(len(own), -1), keys.reshape(rows * n, -1))
        # The authors spread the smoothing over the other classes: a share n / (n - 1) of it over all.
        share = smoothing * valid.sum() / jnp.maximum(valid.sum() - 1, 1)
        ignore = jnp.broadcast_to(~valid.reshape(-1), logits.shape)
        values = info_nce(logits, own[:, None] == jnp.arange(rows * n), smoothing=share, ignore=ignore)
        return values, counted.reshape(-1)

    of_groups = (x.reshape(groups, -1, *x.shape[1:]) for x in (hidden, places, counted, keys, valid))
    return masked_mean(*jax.vmap(one)(*of_groups))


def itc_loss(x: Float[Array, "B D"], y: Float[Array, "B D"], scale: Float[Array, ""]) -> Float[Array, ""]:
    """Aligning contrast, equation 5, both ways; no gradient flows into the keys."""
    forth, back = (scale * similarity(a, jax.lax.stop_gradient(b)) for a, b in ((x, y), (y, x)))
    return 0.5 * (info_nce(forth) + info_nce(back)).mean()
