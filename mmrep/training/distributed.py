"""One run on several hosts: JAX's own runtime, one process a host (or a GPU), and the few points where processes have to agree."""

import contextlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrep.errors import ConfigError, DataError

SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


@dataclass(frozen=True)
class Processes:
    """The processes of a run on several hosts. Nothing need be given on a TPU pod or under srun, where JAX finds them itself."""

    coordinator: str | None = None
    """HOST:PORT of process 0, reachable from all processes"""
    processes: int | None = None
    """how many processes there are; 1 switches detection off"""
    process_id: int | None = None
    """the number of this process, from 0"""
    heartbeat: int = 60
    """seconds of silence after which a process counts as dead and the others end"""


def initialize(options: Processes) -> bool:
    """Joins the run's other processes, before JAX initialises its devices. False where this is the only process.

    If one process dies, the others end with a non-zero code shortly after `heartbeat` seconds.
    Raises ConfigError where the flags are incomplete or contradict each other.
    """
    import jax

    where, count, index = options.coordinator, options.processes, options.process_id
    if options.heartbeat < 1:
        raise ConfigError(f"--heartbeat is {options.heartbeat}: give at least 1 second")
    if count == 1 and where is None:
        return False
    if where is not None or count is not None or index is not None:
        if where is None or count is None or index is None:
            given = {"--coordinator": where, "--processes": count, "--process-id": index}
            missing = ", ".join(k for k, v in given.items() if v is None)
            raise ConfigError(f"{missing} is missing: give --coordinator, --processes and --process-id together")
        if not 0 <= index < count:
            raise ConfigError(f"--process-id is {index}: it must be in [0, {count})")
        host, _, port = where.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(f"--coordinator is {where!r}: write HOST:PORT")
        jax.distributed.initialize(where, count, index, heartbeat_timeout_seconds=options.heartbeat)
        return True
    if not detected(os.environ):
        return False
    jax.distributed.initialize(heartbeat_timeout_seconds=options.heartbeat)
    return True


@contextlib.contextmanager
def joined(options: Processes) -> Iterator[None]:
    """The body as one of the run's processes. A process that fails exits at once: a normal shutdown would deadlock with the others."""
    several = initialize(options)
    try:
        yield
    except BaseException as error:
        if not several:
            raise
        if isinstance(error, ConfigError | DataError):
            print(f"error: {error}", file=sys.stderr)
        elif not isinstance(error, SystemExit):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2 if isinstance(error, ConfigError | DataError) else 1)


def detected(environment: Mapping[str, str]) -> str:
    """ "slurm" or "tpu" where the environment is one of several processes that JAX can find by itself, else ""."""
    if environment.get("JAX_PLATFORMS", "") != "cpu" and _tpu_pod(environment):
        return "tpu"
    # Under sbatch alone, without srun, the variables of a task are absent or count one task.
    if all(v in environment for v in SLURM) and int(environment["SLURM_NTASKS"]) > 1:
        return "slurm"
    return ""


def _tpu_pod(environment: Mapping[str, str]) -> bool:
    if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return True
    devices = any(Path(p).exists() for p in ("/dev/accel0", "/dev/vfio/0"))
    return devices and importlib.util.find_spec("libtpu") is not None and "TPU_SKIP_MDS_QUERY" not in environment


def leads() -> bool:
    """Whether this process is the one that writes files and messages."""
    import jax

    return jax.process_index() == 0


def leader_says(this: bool, asked: bool = True) -> bool:
    """`this` of process 0, in all processes. With several, False unless `asked`: the exchange waits for the steps before it."""
    import jax
    import numpy as np

    if jax.process_count() == 1:
        return this
    if not asked:
        return False
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.int32(this)))


@contextlib.contextmanager
def leader_first() -> Iterator[None]:
    """Runs the body in process 0, then in all others, which find what it wrote to a shared disk. Errors of process 0 end them too.

    Raises ConfigError in the others where process 0 failed.
    """
    import jax
    import numpy as np

    if jax.process_count() == 1:
        yield
        return
    from jax.experimental import multihost_utils

    def agree(failed: bool) -> bool:
        return bool(multihost_utils.broadcast_one_to_all(np.int32(failed)))

    if leads():
        failed = True
        try:
            yield
            failed = False
        finally:
            agree(failed)
    elif agree(False):
        raise ConfigError("process 0 could not start: see its own message")
    else:
        yield


def to_host(tree: Any) -> Any:
    """A tree of arrays that are sharded over processes, as whole NumPy arrays in every process; unchanged with one process."""
    import jax
    import numpy as np

    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    return jax.tree.map(lambda x: np.asarray(multihost_utils.process_allgather(x, tiled=True)), tree)
