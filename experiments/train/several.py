"""
Several processes that train one run together: started by torchrun's elastic agent, which ends them
all where one of them ends early.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from experiments.records.record import RunFiles, at, cores, read_record
from experiments.train import account
from experiments.train.writer import mark_interrupted
from mingpt.parallel.context import ContextGroup
from mingpt.parallel.processes import Group, LostProcess, Processes, joined
from mingpt.parallel.sharded import Sharded
from mingpt.utils import BadInput, CfgNode

LAB = Path(__file__).resolve().parents[2] / "lab.py"
PATIENCE = 3600       # seconds that processes may take to save a checkpoint after a signal
SIGNALS = "SIGTERM,SIGINT,SIGUSR1"


@dataclass(frozen=True)
class Hosts:
    """Where the processes run: `count` hosts, which meet at `meeting`, HOST:PORT of one of them,
    under the name `job`."""
    count: int = 1
    meeting: str = "localhost:0"
    job: str = ""
    first: bool = True      # whether this is the host at which they meet


def hosts_of_job() -> Hosts:
    """The hosts on which srun has started this program, once on each; else this one alone."""
    given = os.environ
    count = int(given.get("SLURM_STEP_NUM_NODES") or 1)
    if count == 1 or "RANK" in given:
        return Hosts()
    job = given["SLURM_JOB_ID"]
    # nodes of one job may share an address; a port of the job's own keeps jobs apart
    return Hosts(count, f"{given['SLURM_LAUNCH_NODE_IPADDR']}:{20_000 + int(job) % 20_000}",
                 f"{job}.{given.get('SLURM_RESTART_COUNT', 0)}", given["SLURM_NODEID"] == "0")


def start(count: int, arguments: list[str], files: RunFiles | None,
          hosts: Hosts | None = None) -> int:
    """Run lab.py with these arguments in `count` processes per host until all have ended, and
    return the run's exit code. `files` are those of the run; None where nothing is trained.
    SIGTERM, SIGUSR1 and Ctrl-C are passed on to all processes."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch
    hosts = hosts or Hosts()
    several = {"local_addr": "localhost"} if hosts.count == 1 else {
        "rdzv_configs": {"is_host": hosts.first}}
    for name in logging.root.manager.loggerDict:     # the agent's own words about its processes
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    # as many threads in all as one process would have
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // count)))
    with tempfile.TemporaryDirectory(prefix="ablate-") as folder:
        config = LaunchConfig(
            min_nodes=hosts.count, max_nodes=hosts.count, nproc_per_node=count, max_restarts=0,
            run_id=hosts.job or uuid.uuid4().hex, rdzv_backend="c10d", rdzv_endpoint=hosts.meeting,
            logs_specs=DefaultLogsSpecs(log_dir=folder), signals_to_handle=SIGNALS,
            shutdown_timeout=PATIENCE, **several)
        try:
            elastic_launch(config, sys.executable)(str(LAB), *arguments)
        except ChildFailedError as error:
            return _failed({rank: failure.exitcode for rank, failure in error.failures.items()},
                           files)
        except SignalException as error:
            return _interrupted(error.sigval, files)
    return account.DONE


def _failed(codes: dict[int, int], files: RunFiles | None) -> int:
    """The exit code of a run whose processes ended with these codes. Says which were killed."""
    killed = {rank: -code for rank, code in codes.items() if code < 0 and -code != signal.SIGTERM}
    for rank, number in killed.items():
        print(f"process {rank} was ended by {signal.Signals(number).name}"
              f"{', most likely out of memory' if number == signal.SIGKILL else ''}",
              file=sys.stderr)
    if files is None and signal.SIGKILL in killed.values():
        raise BadInput(f"{len(codes)} processes do not fit into this machine's memory: try fewer, "
                       f"or smaller batches")
    said = [code for code in (2, account.FAILED, account.INTERRUPTED) if code in codes.values()]
    if files and 2 not in said:    # processes that were killed could not end the record themselves
        mark_interrupted(files, "another process of this run has ended")
    return said[0] if said else account.INTERRUPTED if killed else account.FAILED


def _interrupted(number: signal.Signals, files: RunFiles | None) -> int:
    """The exit code after a signal: the run's, or that of a program that the signal ended before
    the run began."""
    with contextlib.suppress(BadInput):
        status = files and at(read_record(files.json), "status")
        if status in ("done", "diverged", "failed", "interrupted"):
            return account.exit_code(status)
    return 128 + number


@contextlib.contextmanager
def membership(device: str, trainer: CfgNode) -> Iterator[Processes]:
    """Inside this context, the process is one of those that torchrun started, or is alone.
    `trainer` are the settings that say what the processes share. If several fail, only the first
    raises its error here; the others exit silently."""
    kinds = {"ddp": Group, "fsdp": Sharded,
             "context": partial(ContextGroup, each=trainer.context_processes)}
    end_with_parent()
    with joined(device, kinds[trainer.parallel]) as processes:
        try:
            yield processes
            processes.gather(None)     # nobody leaves before the first process has written all
        except Exception as error:
            _once(processes, error)
            raise


def _once(processes: Processes, error: Exception) -> None:
    """Exit silently if another process has already printed its error, or has ended."""
    if not isinstance(processes, Group):
        return
    code = 2 if isinstance(error, BadInput) else account.FAILED
    told = False
    with contextlib.suppress(RuntimeError):     # the store may have ended as well
        told = processes.store.add("failed", 1) > 1
    if told or isinstance(error, LostProcess):
        sys.stdout.flush()
        sys.stderr.flush()
        # not sys.exit: the end of an interpreter may wait for the process that is gone
        os._exit(account.INTERRUPTED if isinstance(error, LostProcess) else code)


def end_with_parent() -> None:
    """On Linux, ask for SIGTERM when the process that started this one ends, because an agent that
    is killed cannot end its processes."""
    if sys.platform != "linux" or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    import ctypes
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def first_opens(processes: Processes, open_it: Callable):
    """Call `open_it` in the first process, which may write a cache, and then in the others."""
    if processes.first:
        opened = open_it(True)
    processes.gather(None)
    return opened if processes.first else open_it(False)
