"""What this process may use of its machine."""

import os

import joblib

from brainreg.errors import InputError


def allowed_cores() -> set[int]:
    """Return the numbers of the CPU cores that this process may run on; all of them on systems that confine none."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def cpu_cores() -> int:
    """Return how many CPU cores this process may use: the one count that trials, threads and names derive from.

    It is the smallest of the machine's cores, the CPU affinity (taskset, Slurm's and Docker's cpusets), a container's
    quota of CPU time, rounded up (cgroup v1 and v2, as Docker and Kubernetes set it), what Slurm gave a job that it
    does not confine (SLURM_CPUS_ON_NODE), and LOKY_MAX_CPU_COUNT, with which a user can lower it.

    Raises:
        InputError: one of the two variables is no number.
    """
    limits = []
    for name in ("LOKY_MAX_CPU_COUNT", "SLURM_CPUS_ON_NODE"):
        value = os.environ.get(name)
        if value is not None and not (value.isdecimal() and int(value)):
            raise InputError(f"{name}={value}: must be a whole number of CPU cores, at least 1")
        limits += [int(value)] if value is not None else []
    return min([joblib.cpu_count(), *limits])
