"""A process that works on a store is killed at random points: nothing committed is lost, torn or another's."""

import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from peftu.store import AdapterStore, Collection, homes, recipe, shards
from peftu.store.index import Index

torch.set_num_threads(1)

WIDTH = 4
KINDS = [Collection("lora@base", seed, "base", "sha256:0", WIDTH, recipe(seed=seed)) for seed in (0, 1)]
USERS = [f"user-number-{place}-of-the-store" for place in range(6)]
Held = dict[tuple[int, str], bytes]
Step = dict[str, Any]


def rows(stamp: int, count: int) -> Tensor:
    """Returns rows that no other stamp has."""
    return torch.rand(count, WIDTH, generator=torch.Generator().manual_seed(stamp))


def steps(seed: int) -> Iterator[Step]:
    draw = random.Random(seed)  # noqa: S311
    for place in range(12):
        what = draw.choices(["add", "enrol", "delete", "erase", "gc", "move"], [3, 4, 2, 1, 2, 1])[0]
        users = draw.sample(USERS, draw.randint(2, 4)) if what == "add" else draw.sample(USERS, 1)
        yield {"what": what, "kind": draw.randrange(2), "users": users, "stamp": 100 * seed + place}


def elsewhere(folder: Path) -> Path:
    """Returns the folder that shards are moved to and from."""
    return folder.with_name("elsewhere")


def take(store: AdapterStore, step: Step) -> None:
    if step["what"] in ("add", "enrol"):
        users = step["users"]
        store.add(KINDS[step["kind"]], users, rows(step["stamp"], len(users)), [1] * len(users))
    elif step["what"] == "delete":
        store.delete(step["users"][0])
    elif step["what"] == "erase":
        store.erase(step["users"][0])
    elif step["what"] == "move":
        store.pack(home=f"file://{elsewhere(store.folder)}" if step["stamp"] % 2 else "here")
    else:
        store.gc()


def after(held: Held, step: Step) -> Held:
    """Returns what a store holds after a step, as a dict would."""
    if step["what"] in ("add", "enrol"):
        added = rows(step["stamp"], len(step["users"]))
        return held | {(step["kind"], u): row.numpy().tobytes() for u, row in zip(step["users"], added, strict=True)}
    if step["what"] in ("delete", "erase"):
        return {place: row for place, row in held.items() if place[1] != step["users"][0]}
    return held


def dying(actual: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    """Returns a function that kills its process before or after its last call, as ``left`` counts down."""

    def called(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = actual(*args, **kwargs)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return called


def work(folder: Path, journal: Path, seed: int) -> None:
    """Takes steps, each noted before and after, until it is killed at a point that the seed draws."""
    left = [random.Random(seed).randint(1, 400)]  # noqa: S311
    shards.SHARD_BYTES = 3 * 4 * WIDTH
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("peftu.store.deletion.MANY", 3)
        for place, name in (
            (Index, "sql"),
            (os, "fsync"),
            (shards, "stored"),
            (shards.Shards, "discard"),
            (homes, "put"),
            (homes, "remove"),
        ):
            patch.setattr(place, name, dying(getattr(place, name), left))
        with journal.open("a", buffering=1) as noted, AdapterStore(folder) as store:
            for step in steps(seed):
                noted.write(json.dumps(step) + "\n")
                take(store, step)
                noted.write("done\n")
        os._exit(0)


def contents(store: AdapterStore) -> Held:
    held = Held()
    for number, kind in enumerate(KINDS):
        if kind in store.collections():
            keys = store.keys(kind)
            held |= {(number, key): row.numpy().tobytes() for key, row in zip(keys, store.get(kind, keys), strict=True)}
    return held


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_a_store_whose_processes_are_killed_is_a_dict(tmp_path: Path, kills: int) -> None:
    folder, held, killed, seed = tmp_path / "modules", Held(), 0, 0
    ever: set[bytes] = set()
    AdapterStore(folder, create=True).close()
    while killed < kills:
        seed += 1
        journal = tmp_path / f"{seed}"
        process = multiprocessing.get_context("fork").Process(target=work, args=(folder, journal, seed))
        process.start()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        killed += process.exitcode != 0
        before = held
        for line in journal.read_text().splitlines() if journal.exists() else ():
            if line == "done":
                before = held
            else:
                before, held = held, after(held, json.loads(line))
                ever |= set(held.values())
        with AdapterStore(folder) as store:
            found = contents(store)
            assert found in (before, held), f"seed {seed}"  # the last step is whole or was not taken
            held = found
            if seed % 3 == 0:
                store.gc()
                everything = b"\0".join(path.read_bytes() for path in tmp_path.glob("[em]*/**/*") if path.is_file())
                kinds = [kind for kind in KINDS if kind in store.collections()]
                kept = {version.checksum for kind in kinds for user in USERS for version in store.versions(kind, user)}
                for row in ever:
                    if shards.checksum(torch.frombuffer(bytearray(row), dtype=torch.float32)) not in kept:
                        assert row not in everything
                for user in set(USERS) - {user for _, user in held}:
                    assert user.encode() not in everything
                assert contents(store) == held
            assert store.verify() >= len(held)
