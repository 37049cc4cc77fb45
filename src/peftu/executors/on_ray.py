"""Cells filled by Ray: on a cluster, or on this machine, where Ray is started for it and stopped with it.

No file system is shared: what a cell needs goes to its actor as bytes, and the cell's files come back so. Ray pickles
what passes between processes of the same peftu; none of it is kept.
"""

import contextlib
import dataclasses
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peftu.cells.fill import Filler
from peftu.cells.numerics import numerics
from peftu.cells.spec import CellSpec
from peftu.environment import cores
from peftu.errors import PeftuError
from peftu.executors.executor import DIED, Executor, Failure, Filled, Outcome, Task, attempt
from peftu.lab.progress import Reporter

Files = dict[str, bytes]  # path below a folder -> content
STARTS = 3  # workers that may die at their start, one after another
ANSWER = 5.0  # seconds in which a server must answer
_SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # HTTP/2's first frame (RFC 9113, 3.4)
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS
PATIENCE = 30.0  # seconds without a worker before that is said


class Worker:
    """A process that fills cells in folders of its own; bases stay loaded."""

    def begin(self, threads: int) -> tuple[str, str]:
        """Returns this process's peftu, ready for work."""
        import torch

        torch.set_num_threads(threads)
        self.filler = Filler()
        return identity()

    def fill(self, spec: CellSpec, names: list[str], *needs: Files) -> tuple[Outcome, Files]:
        """Returns the outcome of a task, and the files of the cell."""
        with tempfile.TemporaryDirectory(prefix="peftu-") as home:
            folders = {name: Path(home, name) for name in names}
            for folder, files in zip(folders.values(), needs, strict=True):
                _write(folder, files)
            part = Path(home, "part")
            part.mkdir(mode=0o700)
            outcome = attempt(self.filler, Task(spec, folders, part))
            return outcome, _read(part) if isinstance(outcome, Filled) else {}


def identity() -> tuple[str, str]:
    """Returns version and numerics of this process's peftu: cells are the same where these are."""
    return version("peftu"), numerics()


@dataclass(frozen=True)
class _Actor:
    handle: Any
    begun: Any  # reference to what `begin` returns


class OnRay:
    """One actor for each slot, made when the slot is first used and again when it has died.

    Args:
        reporter: hears when the cluster has no room.
        slots: how many actors.
        cpus: of each.
        gpus: of each, in parts of one where several share it.
        held: what is undone at the end: Ray stops, where it was started for this.
    """

    elsewhere = True

    def __init__(self, reporter: Reporter, slots: int, cpus: int, gpus: float, held: contextlib.ExitStack) -> None:
        import ray

        self._ray, self._reporter, self.slots, self._cpus, self._held = ray, reporter, slots, cpus, held
        self._device = "cuda" if gpus else None  # of a worker, whatever bases compute on here
        self._remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(Worker)
        self._actors: list[_Actor | None] = [None] * slots
        self._flying: dict[Any, tuple[int, Task]] = {}
        self._needs: dict[str, Any] = {}  # name of a cell that others need -> its files in Ray's store
        self._unsent: list[tuple[Task, Failure]] = []
        self._dead_starts, self._begun = 0, False

    def submit(self, task: Task) -> None:
        """Sends a task to an actor that has none."""
        busy = {number for number, _ in self._flying.values()}
        number = next(number for number in range(self.slots) if number not in busy)
        actor = self._actors[number] or self._start()
        self._actors[number] = actor
        spec = task.spec if self._device is None else _on(task.spec, self._device)
        for name, folder in task.needs.items():
            if name not in self._needs:
                self._needs[name] = self._ray.put(_read(folder))
        try:
            sent = actor.handle.fill.remote(spec, list(task.needs), *(self._needs[name] for name in task.needs))
        except Exception as error:  # noqa: BLE001  (whatever pickle has against a method)
            self._unsent.append((task, Failure("error", f"{type(error).__name__}: {_last_line(error)}")))
            return
        self._flying[sent] = (number, task)

    def _start(self) -> _Actor:
        handle = self._remote.remote()
        return _Actor(handle, handle.begin.remote(self._cpus))

    def next(self) -> tuple[Task, Outcome]:
        """Returns a task that has ended.

        Raises:
            PeftuError: no worker can start, or workers have another peftu.
        """
        if self._unsent:
            return self._unsent.pop()
        if not self._begun:
            begun, _ = self._ray.wait([actor.begun for actor in self._actors if actor], timeout=PATIENCE)
            if not begun:
                self._reporter.note("Ray has no room for a worker yet: waiting — 'ray status' shows who has it")
            self._begun = True
        done, _ = self._ray.wait(list(self._flying), num_returns=1)
        number, task = self._flying.pop(done[0])
        return task, self._outcome(number, task, done[0])

    def _outcome(self, number: int, task: Task, done: Any) -> Outcome:
        errors = self._ray.exceptions
        try:
            self._check_begun(number)
            outcome, files = self._ray.get(done)
        except errors.RayActorError:
            self._actors[number] = None
            return Failure("died", DIED)
        except errors.RayError as error:
            return Failure("error", f"Ray: {_last_line(error)}")
        _write(task.part, files)
        return outcome  # type: ignore[no-any-return]

    def _check_begun(self, number: int) -> None:
        """Checks that an actor could begin, and what with.

        Raises:
            PeftuError: no worker can start, or workers have another peftu.
            RayActorError: this one has died at it.
        """
        actor = self._actors[number]
        assert actor is not None  # noqa: S101
        errors = self._ray.exceptions
        try:
            theirs = self._ray.get(actor.begun)
        except errors.RayActorError:
            self._dead_starts += 1
            if self._dead_starts < STARTS:
                raise
            raise PeftuError(f"--executor ray: {STARTS} workers have died at their start: {DIED}") from None
        except errors.RayError as error:
            raise PeftuError(f"--executor ray: a worker cannot start: {_last_line(error)}") from None
        self._dead_starts = 0
        if theirs != identity():
            here, there = (f"{release} ({code[:15]})" for release, code in (identity(), theirs))
            raise PeftuError(
                f"--executor ray: peftu is {here} here and {there} on a worker — install the same one on every machine"
            )

    def close(self) -> None:
        """Ends all actors, and Ray where it was started here."""
        for actor in filter(None, self._actors):
            self._ray.kill(actor.handle)
        self._actors = [None] * self.slots
        self._flying.clear()
        self._needs.clear()
        self._held.close()


def on_ray(
    reporter: Reporter,
    workers: int = 0,
    bases: object = None,
    device: str = "cpu",
    address: str | None = None,
    gpus: float | None = None,
    **options: Any,
) -> Executor:
    """Returns an executor on Ray: the one that this process is connected to, else at an address, else started here.

    Args:
        reporter: hears when the cluster has no room.
        workers: how many work at once; they share the cores. 0: one a core, or as many as the GPUs have room for.
        bases: not used, actors load their own.
        address: of a cluster, 'auto' or HOST:PORT; None: Ray is started here, on loopback only, and stopped at the end.
        device: where bases compute here, and on a worker that takes no GPU.
        gpus: that each worker takes, in parts of one where several share it; None: one where bases compute on GPUs.
        options: there are no others.

    Raises:
        PeftuError: Ray is not installed, cannot start, does not answer, or has no room for so many.
    """
    if unknown := [name for name, value in options.items() if value is not None]:
        raise PeftuError(f"--{unknown[0]}: is not for --executor ray — leave it out")
    if find_spec("ray") is None:
        raise PeftuError("--executor ray: Ray is not installed — pip install 'peftu[ray]'")
    if device.startswith("cuda:"):
        raise PeftuError(f"--device {device}: Ray gives each worker its own GPU — write --device cuda")
    if gpus is None:
        gpus = float(device == "cuda")
    with contextlib.ExitStack() as held:
        ray = _connected(address, workers, held)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        slots, cpus = _share([(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes], workers, gpus)
        held_on = held.pop_all()
    return OnRay(reporter, slots, cpus, gpus, held_on)


def _connected(address: str | None, workers: int, held: contextlib.ExitStack) -> Any:
    """Returns the module of Ray, connected; what must be undone at the end is held."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None and "ray" not in sys.modules:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # read at import: Ray keeps to loopback
    import ray

    if ray.is_initialized():
        return ray
    if address is None and os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") != "0":
        raise PeftuError("--executor ray: Ray was imported before and would listen to others — call ray.init() first")
    options: dict[str, Any] = {"address": "local"}
    if address is None:
        home = tempfile.mkdtemp(prefix="peftu-ray-", dir="/tmp" if os.name == "posix" else None)  # noqa: S108  (sockets)
        held.callback(shutil.rmtree, home, ignore_errors=True)
        options |= {"num_cpus": max(cores(), workers), "include_dashboard": False}
        options |= {"_node_ip_address": "127.0.0.1", "_temp_dir": home}
    else:
        options["address"] = _answering(address)
    handler, prints = signal.getsignal(signal.SIGTERM), ray._private.worker
    held.callback(setattr, prints, "_worker_logs_enabled", prints._worker_logs_enabled)
    held.callback(ray.shutdown)
    prints._worker_logs_enabled = False  # Ray tells of dead workers on stdout, where the table or JSON goes
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        where = "cannot start here" if address is None else f"cannot be reached at --address {address}"
        raise PeftuError(f"--executor ray: Ray {where}: {_last_line(error)}") from None
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread, where Ray takes none
            signal.signal(signal.SIGTERM, handler)  # Ray's own would end the run without a word
    return ray


def _answering(address: str) -> str:
    """Returns an address where a gRPC server answers, as Ray's does: Ray itself would try for minutes.

    Raises:
        PeftuError: it is no address, or none does.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    if address == "auto":
        return address
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or int(port) > 65535:
        raise PeftuError(
            f"--address {address}: is no address — write auto, or HOST:PORT as 'ray start --head' shows it"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER) as connection:
            connection.sendall(_PREFACE)
            if connection.recv(4, socket.MSG_WAITALL)[3:] != _SETTINGS[3:4]:
                raise OSError("something else does")
    except OSError as error:
        why = error.strerror or str(error)
        raise PeftuError(f"--address {address}: no Ray answers ({why}) — begin one with 'ray start --head'") from None
    return address


def _share(nodes: list[tuple[float, float]], workers: int, gpus: float) -> tuple[int, int]:
    """Returns how many workers there are, and the cores of each: as many as leave room for all.

    Args:
        nodes: cores and GPUs of each machine.
        workers: how many; 0: as many as there is room for.
        gpus: of each.

    Raises:
        PeftuError: there is no room for so many.
    """

    def room(cpus: int) -> int:
        return sum(min(int(c // cpus), int(g / gpus + 1e-6) if gpus else int(c // cpus)) for c, g in nodes)

    most = room(1)
    if most < max(workers, 1):
        needed = f" with {gpus:g} GPUs each" if gpus else ""
        raise PeftuError(f"--workers {workers}: Ray has room for {most}{needed} — use fewer, or add machines to it")
    workers = workers or most
    widest = int(max(cpus for cpus, _ in nodes))
    return workers, next(cpus for cpus in range(widest, 0, -1) if room(cpus) >= workers)


def _on(spec: CellSpec, device: str) -> CellSpec:
    """Returns a cell whose base computes on a device."""
    if spec.base is None:
        return spec
    fingerprint, hardware = spec.base
    return dataclasses.replace(spec, base=(fingerprint, hardware.model_copy(update={"device": device})))


def _last_line(error: BaseException) -> str:
    """Returns the last line of an error: Ray's hold a traceback of another process."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _read(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
