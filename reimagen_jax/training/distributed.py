"""Several processes as one run: finding each other, and letting the first one act for all.

Every process runs the same command, sees its own devices and reads its own share of each batch; `jax.distributed`
brings them together. The working folder has to be one that all of them see, or in a bucket: each writes its part of a
checkpoint, the first one alone writes logs, pictures and `run.json`.

How they find each other, in this order:
  JAX_COORDINATOR_ADDRESS   host:port of the first process, with JAX_NUM_PROCESSES and JAX_PROCESS_ID
  Slurm, Open MPI           from what `srun` and `mpirun` set, when they started more than one process
  TPU pods                  where TPU_WORKER_HOSTNAMES names several hosts (GKE); on other pods `--distributed` asks
                            the machine's metadata
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array

from reimagen_jax.errors import UserError

Result = TypeVar("Result")

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
HOW = f"set {ADDRESS} (host:port of the first process), {COUNT} and {INDEX}, or start it with srun, mpirun or on a pod"

PATIENCE = 60
"""Seconds that a process which has failed waits for the others, before all are ended."""


def start(distributed: bool = False, timeout: int = 300) -> None:
    """Joins the other processes of this run, if there are any; call it before anything of JAX is computed.

    Without `distributed` only an environment that speaks of several processes makes them meet; with it they have to.
    `timeout` is in seconds. Raises `UserError` if the settings are incomplete or the others do not answer.
    """
    if jax.distributed.is_initialized() or not (distributed or expected(os.environ)):
        return
    try:
        count, index = (_number(name) for name in (COUNT, INDEX))
        jax.distributed.initialize(
            num_processes=count,
            process_id=index,
            initialization_timeout=timeout,
            shutdown_timeout_seconds=PATIENCE,
        )
    except (ValueError, TypeError, KeyError, RuntimeError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"this process cannot join the others of its run ({reason}): {HOW}") from error


def expected(environment: Mapping[str, str]) -> bool:
    """Whether an environment speaks of several processes."""
    if environment.get(ADDRESS):
        return True
    # SLURM_STEP_...: of the processes that srun has started; SLURM_NTASKS is set in interactive shells as well.
    counts = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
    return any(int(environment.get(name) or 1) > 1 for name in counts) or "," in environment.get(
        "TPU_WORKER_HOSTNAMES", ""
    )


def on_first_process(act: Callable[[], Result]) -> Result | None:
    """What `act` returns in the first process, None in the others; none goes on before it has succeeded.

    Raises `UserError` in all of them if it raises one in the first.
    """
    if jax.process_count() == 1:
        return act()
    result, failure = None, None
    if jax.process_index() == 0:
        try:
            result = act()
        except UserError as error:
            failure = error
    failed = bool(multihost_utils.broadcast_one_to_all(np.int32(failure is not None)))
    if failure is not None:
        raise failure
    if failed:
        raise UserError("the first process of this run has stopped: its own message says why")
    return result


def in_all(fact: bool) -> bool:
    """Whether it is so in every process; all ask together."""
    return bool(np.all(multihost_utils.process_allgather(np.bool_(fact))))


def from_first_process(arrays: Any) -> Any:
    """A tree of numpy arrays as the first process has it, in all of them; shapes and types are the same in each."""
    return multihost_utils.broadcast_one_to_all(arrays)


def whole(array: Array) -> np.ndarray:
    """An array as numpy, in every process, wherever its parts lie; all processes ask together."""
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def _number(name: str) -> int | None:
    value = os.environ.get(name)
    return None if value is None else int(value)
