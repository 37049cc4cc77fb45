"""Modules are added, rolled back, deleted and evicted between any two steps of a batch: no answer is another's.

The oracle is made beforehand: every version's module, its digest, and what the base answers with it, read without the
service. Whatever an answer names must have been that user's at the time, and its numbers those of exactly that module.
"""

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from httpx import Response
from serving import Client, serving
from torch import Tensor

from peftu.data.problem import Text
from peftu.fitted.fitted import Fitted
from peftu.fitted.folder import load
from peftu.fitted.modules import ModuleFitted
from peftu.fitted.rows import MemoryRows, StoredRows
from peftu.lab.lab import Lab
from peftu.serving.asked import Errand
from peftu.serving.limits import Limits
from peftu.serving.moment import without_modules
from peftu.serving.resident import ResidentRows, Residents, identity
from peftu.store import APPROVED, QUARANTINED, REVOKED, AdapterStore, Status, checksum
from peftu.testing.fitted import CLOSE, fit_tiny

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("tiny_bases")

TEXTS = ["a note of blue", "soup, and trains"]
ROWS = 8  # modules that a user may have
RESIDENT = 3  # modules that stay in memory
TOGETHER = 4  # requests that are sent at once
OFTEN = 0.2  # how often something happens where it can
# Between the calls of these, inside of a batch, somebody else may be at work.
PLACES = [
    *((AdapterStore, name) for name in ("missing", "answering", "get")),
    *((Residents, name) for name in ("fill", "put")),
    *((ResidentRows, name) for name in ("look", "_known")),
    (ModuleFitted, "_modules"),
]
Chances = dict[str, float]  # text -> probability


class Oracle:
    """Every module that anybody may have: whose it is, and what is answered with it.

    Attributes:
        rows: user -> [modules, width].
        digests: user -> their digests.
        owners: digest -> user.
        chances: digest -> text -> probability of 'likes'; of the base as it is under ''.
        examples: user -> two sets of labelled texts.
        enrolled: user -> the digests of what each set trains.
    """

    def __init__(self, kept: Path, aside: Path) -> None:
        self._lab = Lab()
        fitted = load(kept, self._lab)
        assert isinstance(fitted, ModuleFitted)
        assert isinstance(fitted.rows, StoredRows)
        self.collection, self.store = fitted.rows.collection, fitted.rows.folder
        self.users, generator = list(fitted.users), torch.Generator().manual_seed(0)
        own = fitted.rows.get(self.users)
        self.rows = {
            user: torch.cat([row[None], row + 0.3 * torch.randn(ROWS - 1, len(row), generator=generator)])
            for user, row in zip(self.users, own, strict=True)
        }
        self.examples = {user: [self._examples(user, size) for size in (2, 3)] for user in self.users}
        trained = {user: self._trained(kept, aside, user) for user in self.users}
        self.digests = {user: [self.digest(row) for row in rows] for user, rows in self.rows.items()}
        self.enrolled = {user: [self.digest(row) for row in rows] for user, rows in trained.items()}
        every = {
            self.digest(row): (user, row) for given in (self.rows, trained) for user in given for row in given[user]
        }
        self.owners = {digest: user for digest, (user, _) in every.items()}
        fitted.rows = MemoryRows(list(every), torch.stack([row for _, row in every.values()]), [1] * len(every))
        self.chances = {digest: self._chances(fitted, digest) for digest in every}
        bare = without_modules(fitted)
        assert bare is not None
        self.chances[""] = self._chances(bare, "")

    def digest(self, row: Tensor) -> str:
        return identity(self.collection, checksum(row))

    @staticmethod
    def _examples(user: str, size: int) -> list[tuple[str, str]]:
        return [(f"Note {size + n} of {user}", ("likes", "dislikes")[(size + n) % 2]) for n in range(size)]

    def _trained(self, kept: Path, aside: Path, user: str) -> list[Tensor]:
        """Returns what each set of a user's examples trains, in a copy of the folder."""
        rows = []
        for place, examples in enumerate(self.examples[user]):
            fitted = load(Path(shutil.copytree(kept, aside / f"{user}-{place}")), self._lab)
            assert isinstance(fitted, ModuleFitted)
            assert fitted.rows is not None
            fitted.enrol(user, examples)
            rows.append(fitted.rows.get([user])[0])
        return rows

    @staticmethod
    def _chances(fitted: Fitted, user: str) -> Chances:
        read = fitted.answered([user] * len(TEXTS), [Text(text) for text in TEXTS])
        return dict(zip(TEXTS, read["p_likes"].to_list(), strict=True))

    def close(self, digest: str, text: str, chance: float) -> bool:
        return abs(self.chances[digest][text] - chance) < CLOSE


class Story:
    """What happens to the store beside the service, and which module may answer for each user meanwhile.

    Args:
        oracle: of all modules.
        seed: of what happens.
    """

    def __init__(self, oracle: Oracle, seed: int) -> None:
        self.oracle, self.rng, self.lock = oracle, np.random.default_rng(seed), threading.RLock()
        self.store = AdapterStore(oracle.store)
        self.versions: dict[str, list[tuple[str, Status]]] = {
            u: [(oracle.digests[u][0], APPROVED)] for u in oracle.users
        }
        self.now: dict[str, str | None] = {user: oracle.digests[user][0] for user in oracle.users}
        self.may: dict[str, set[str | None]] = {}  # answer: since this interleaving began
        self.busy: dict[str, str | None] = {}  # users whom the service changes, and into what
        self.errors: list[BaseException] = []
        self.steps = 0
        self.begin()

    def begin(self) -> None:
        """Begins an interleaving: what was answered before it no longer may be."""
        with self.lock:
            self.may = {user: {now} for user, now in self.now.items()}
            for user, module in self.busy.items():
                self.may[user].add(module)

    def happens(self) -> None:
        """Perhaps changes something, in whichever thread of the service this is."""
        with self.lock:
            if self.rng.random() < OFTEN:
                try:
                    self._step()
                except BaseException as error:  # noqa: BLE001  (the service would answer it as its own)
                    self.errors.append(error)

    def _step(self) -> None:
        free = [user for user in self.oracle.users if user not in self.busy]
        if not free:
            return
        self.steps += 1
        user = str(self.rng.choice(free))
        what = str(self.rng.choice(["add", "add", "add", "back", "back", "mark", "delete", "gc"]))
        getattr(self, f"_{what}")(user)
        approved = [digest for digest, status in self.versions[user] if status == APPROVED]
        self.now[user] = approved[-1] if approved else None
        self.may[user].add(self.now[user])

    def _add(self, user: str) -> None:
        place = int(self.rng.integers(ROWS))
        status = QUARANTINED if self.rng.random() < 0.2 else APPROVED
        self.store.add(self.oracle.collection, [user], self.oracle.rows[user][place][None], [1], status)
        self.versions[user].append((self.oracle.digests[user][place], status))

    def _back(self, user: str) -> None:
        approved = [place for place, (_, status) in enumerate(self.versions[user]) if status == APPROVED]
        if len(approved) > 1:
            self.store.rollback(self.oracle.collection, user)
            for place in range(approved[-2] + 1, len(self.versions[user])):
                self.versions[user][place] = (self.versions[user][place][0], REVOKED)

    def _mark(self, user: str) -> None:
        if self.versions[user]:
            place = int(self.rng.integers(len(self.versions[user])))
            status: Status = [APPROVED, REVOKED, QUARANTINED][int(self.rng.integers(3))]
            number = self.store.versions(self.oracle.collection, user)[::-1][place].number
            self.store.mark(self.oracle.collection, user, number, status)
            self.versions[user][place] = (self.versions[user][place][0], status)

    def _delete(self, user: str) -> None:
        self.store.delete(user)
        self.versions[user] = []

    def _gc(self, user: str) -> None:
        self.store.gc()

    # --- what the service changes itself ------------------------------------------------------------------------------

    def free(self) -> str | None:
        """Returns a user whom the service may change."""
        free = [user for user in self.oracle.users if user not in self.busy]
        return str(self.rng.choice(free)) if free else None

    def changing(self, user: str, module: str | None) -> None:
        with self.lock:
            self.busy[user] = module
            self.may[user].add(module)

    def changed(self, user: str) -> None:
        with self.lock:
            module = self.now[user] = self.busy.pop(user)
            self.versions[user] = [] if module is None else [*self.versions[user], (module, APPROVED)]


class Play:
    """Requests to a service in the middle of a story."""

    def __init__(self, client: Client, story: Story, seed: int) -> None:
        self.client, self.story, self.oracle = client, story, story.oracle
        self.rng = np.random.default_rng(seed)
        self.answers: dict[int, int] = {}  # by status

    def interleaving(self) -> None:
        """Sends some requests at once, and checks their answers."""
        self._settle()
        self.story.begin()
        if self.rng.random() < 0.02:
            self.client.service.worker.ask(Errand(lambda methods: methods.reopen(None)))
        asked = [self._asked() for _ in range(TOGETHER)]
        answers = self.client.together([request for request, _ in asked])
        for (_, check), answer in zip(asked, answers, strict=True):
            self.answers[answer.status_code] = self.answers.get(answer.status_code, 0) + 1
            check(answer)
        if self.story.errors:
            raise self.story.errors[0]

    def end(self) -> None:
        """Waits for whoever is still being enrolled."""
        for user in list(self.story.busy):
            change = self.client.service.people.enrolment(user)
            assert change is not None
            change.done.exception(100)
        self._settle()

    def _settle(self) -> None:
        for user in list(self.story.busy):
            change = self.client.service.people.enrolment(user)
            assert change is not None
            if change.done.done():
                assert change.state == "done", change.error
                self.story.changed(user)

    def _asked(self) -> tuple[tuple[str, str, None, dict[str, Any]], Callable[[Response], None]]:
        draw = self.rng.random()
        if draw < 0.1 and (user := self.story.free()) is not None:
            return self._forget(user) if draw < 0.09 else self._enrol(user)
        if draw < 0.2:
            body = {"input": TEXTS[0], "label": "likes"}
            return ("POST", "/v1/rank", None, {"json": body}), self._check_ranking
        if draw < 0.3:
            user = str(self.rng.choice(self.oracle.users))
            return ("GET", f"/v1/users/{user}", None, {}), lambda said: self._check_user(user, said)
        users = [str(user) for user in self.rng.choice(self.oracle.users, self.rng.integers(1, 4), replace=False)]
        texts = TEXTS[: int(self.rng.integers(1, 3))]
        body = {"users": users, "inputs": texts, "on_missing": ("error", "base")[int(self.rng.random() < 0.3)]}
        return ("POST", "/v1/predict", None, {"json": body}), lambda said: self._check_answers(users, texts, said)

    def _forget(self, user: str) -> Any:
        self.story.changing(user, None)

        def check(said: Response) -> None:
            known = bool(self.story.versions[user])
            self.story.changed(user)
            assert said.status_code in ((200,) if known else (200, 404)), said.text  # examples may be kept of one

        return ("DELETE", f"/v1/users/{user}", None, {}), check

    def _enrol(self, user: str) -> Any:
        place = int(self.rng.integers(2))
        self.story.changing(user, self.oracle.enrolled[user][place])
        examples = [{"text": text, "labels": [label]} for text, label in self.oracle.examples[user][place]]

        def check(said: Response) -> None:
            assert said.status_code == 202, said.text

        return ("PUT", f"/v1/users/{user}/examples", None, {"json": {"examples": examples, "replace": True}}), check

    # --- what may be answered -----------------------------------------------------------------------------------------

    def _check_module(self, user: str, module: str, fallback: str | None) -> str:
        """Returns the digest that answers, which must be this user's, of this time."""
        if fallback == "base":
            assert None in self.story.may[user]
            return ""
        assert fallback is None
        assert self.oracle.owners[module] == user
        assert module in self.story.may[user]
        return module

    def _unknown(self, users: Sequence[str]) -> None:
        assert users
        assert all(None in self.story.may[user] for user in users)

    def _check_answers(self, users: list[str], texts: list[str], said: Response) -> None:
        if said.status_code == 404:
            self._unknown([users[place] for place in said.json()["error"]["unknown_users"]])
            return
        assert said.status_code == 200, said.text
        results = said.json()["results"]
        assert [result["user"] for result in results] == users
        for result in results:
            module = self._check_module(result["user"], result["module"], result["fallback"])
            for text, answer in zip(texts, result["answers"], strict=True):
                assert self.oracle.close(module, text, answer["probabilities"]["likes"])

    def _check_ranking(self, said: Response) -> None:
        absent = {user for user in self.oracle.users if None in self.story.may[user]}
        if said.status_code == 404:
            assert absent
            return
        assert said.status_code == 200, said.text
        ranking = said.json()["ranking"]
        assert {line["user"] for line in ranking} >= set(self.oracle.users) - absent
        for line in ranking:
            module = self._check_module(line["user"], line["module"], line["fallback"])
            assert self.oracle.close(module, TEXTS[0], line["probability"])

    def _check_user(self, user: str, said: Response) -> None:
        modules = said.json()["modules"] if said.status_code == 200 else {}
        if modules:
            self._check_module(user, *modules.values(), None)
        else:
            assert said.status_code in (200, 404), said.text
            self._unknown([user])


def read_cheaply(self: ModuleFitted, users: Sequence[str], items: Sequence[Any]) -> Any:
    """Returns [pairs, 2] log-probabilities as a module's and a text's numbers alone give them, without the base."""
    modules, units = self._modules(users)
    texts = np.array([np.random.default_rng(len(text.text)).normal(size=64) for text, _ in items])
    numbers = np.zeros((1, 64), np.float32) if modules is None else modules[:, :64].numpy()
    odds = 1 + (texts * numbers[units]).sum(1)
    return -np.logaddexp(0, np.stack([odds, -odds], 1)).astype(np.float32)


def interrupted(patch: pytest.MonkeyPatch, cls: type, name: str, story: Story) -> None:
    """Has something happen before and after the calls of a method, unless it is the story that calls it."""
    actual = getattr(cls, name)

    def called(self: Any, *given: Any) -> Any:
        if self is story.store:
            return actual(self, *given)
        story.happens()
        result = actual(self, *given)
        story.happens()
        return result

    patch.setattr(cls, name, called)


@pytest.mark.parametrize(
    ("interleavings", "cheaply"),
    [(100, False), pytest.param(10_000, True, marks=[pytest.mark.slow, pytest.mark.timeout(3 * 3600)])],
)
def test_every_answer_is_of_a_module_that_was_the_users(
    interleavings: int, cheaply: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cheaply:
        monkeypatch.setattr(ModuleFitted, "read", read_cheaply)
    fit_tiny("lora[rank=2]", "llama")[0].save(tmp_path / "kept")
    oracle = Oracle(tmp_path / "kept", tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a disk under load takes seconds
    story = Story(oracle, 0)
    limits = Limits(resident_bytes=RESIDENT * 4 * oracle.collection.width)
    with story.store, serving(tmp_path / "kept", limits=limits) as client:
        for cls, name in PLACES:
            interrupted(monkeypatch, cls, name, story)
        play = Play(client, story, 1)
        for _ in range(interleavings):
            play.interleaving()
        play.end()
    assert story.steps > interleavings
    assert play.answers[200] > interleavings
