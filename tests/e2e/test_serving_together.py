"""People are asked about while others enrol, change and delete them: each answer is of a version they had, or none.

The oracle is the fitted method itself: every version is made once beside the service, and scored without it.
"""

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from serving import Client, serving

from peftu.data.problem import Text
from peftu.fitted.fitted import Fitted
from peftu.fitted.folder import load
from peftu.fitted.guarded import GuardedFitted
from peftu.fitted.modules import ModuleFitted
from peftu.lab.lab import Lab
from peftu.serving.limits import Limits
from peftu.testing.fitted import CLOSE, fit_tiny

torch.set_num_threads(1)

TEXTS = ["a note of blue", "soup, and trains"]
PLAIN = [Text(text) for text in TEXTS]
GONE = "gone"


pytestmark = pytest.mark.usefixtures("tiny_bases")


def fitted_of(method: str) -> Fitted:
    if not method.endswith("+guard"):
        return fit_tiny(method, "llama")[0]
    inner, problem = fit_tiny(method.removesuffix("+guard"), "llama")
    fallback, _ = fit_tiny("user-majority", "llama")
    return GuardedFitted(
        inner.job, inner.task, 0, inner.lab, inner.prompt, inner, fallback, [problem.users[0], problem.users[1]]
    )


class Actor(threading.Thread):
    """Asks or changes people; what went wrong is raised where it is joined."""

    def __init__(self, work: Any, *given: Any) -> None:
        super().__init__()
        self.work, self.given, self.error = work, given, None

    def run(self) -> None:
        try:
            self.work(*self.given)
        except BaseException as error:  # noqa: BLE001
            self.error = error

    def ended(self) -> None:
        self.join(200)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error


class Versions:
    """What each user's versions answer: as fitted, and enrolled with one set of examples or another."""

    def __init__(self, kept: Path, aside: Path) -> None:
        lab = Lab()
        plain = load(kept, lab)
        self.users, labels = plain.users, plain.task.labels
        rng = np.random.default_rng(0)
        self.examples = {
            (user, name): [(f"Note {n} of {user}", str(rng.choice(labels[: 1 + size % 2]))) for n in range(size)]
            for user in self.users
            for name, size in (("few", 5), ("more", 10))
        }
        self.chances = {(user, "fitted"): self._scored(plain, user) for user in self.users}
        for name in ("few", "more"):
            fitted = load(Path(shutil.copytree(kept, aside / name)), lab)
            for user in self.users:
                fitted.enrol(user, self.examples[user, name])
            self.chances |= {(user, name): self._scored(fitted, user) for user in self.users}

    @staticmethod
    def _scored(fitted: Fitted, user: str) -> Any:
        return np.array(fitted.predict(user, PLAIN).select("p_likes"))[:, 0]

    def of(self, user: str, result: dict[str, Any]) -> set[str]:
        """Returns the user's versions that give this result."""
        chances = [answer["probabilities"]["likes"] for answer in result["answers"]]
        names = ("fitted", "few", "more")
        return {name for name in names if np.abs(self.chances[user, name] - chances).max() < CLOSE}


class Play:
    """A service, what its users' answers may be at present, and those who ask and change."""

    def __init__(self, client: Client, versions: Versions) -> None:
        self.client, self.versions = client, versions
        # The version that is there, and those that a change under way may leave.
        self.may = {user: {"fitted"} for user in versions.users}
        self.lock, self.ended = threading.Lock(), threading.Event()

    def predict(self, users: list[str]) -> Any:
        return self.client("POST", "/v1/predict", json={"users": users, "inputs": TEXTS})

    def ask(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not self.ended.is_set():
            users = [str(user) for user in rng.choice(self.versions.users, rng.integers(1, 4), replace=False)]
            with self.lock:
                before = {user: set(self.may[user]) for user in users}
            said = self.predict(users)
            with self.lock:
                allowed = {user: before[user] | self.may[user] for user in users}
            self.check(said, users, allowed)

    def check(self, said: Any, users: list[str], allowed: dict[str, set[str]]) -> None:
        if said.status_code == 404:
            unknown = [users[place] for place in said.json()["error"]["unknown_users"]]
            assert unknown
            assert all(GONE in allowed[user] for user in unknown)
            return
        assert said.status_code == 200, said.text
        results = said.json()["results"]
        assert [result["user"] for result in results] == users
        for result in results:
            assert self.versions.of(result["user"], result) & allowed[result["user"]]

    def change(self, user: str, changes: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(changes):
            name = str(rng.choice(["few", "more", GONE]))
            with self.lock:
                was = set(self.may[user])
                self.may[user] = was | {name}
            self.settle(user, name, absent=GONE in was)
            with self.lock:
                self.may[user] = {name}

    def settle(self, user: str, name: str, absent: bool) -> None:
        path = f"/v1/users/{user}"
        if name == GONE:
            assert self.client("DELETE", path).status_code == (404 if absent else 200)
        else:
            examples = [{"text": text, "labels": [label]} for text, label in self.versions.examples[user, name]]
            assert (
                self.client("PUT", f"{path}/examples", json={"examples": examples, "replace": True}).status_code == 202
            )
            assert self.client.enrolled(user)["enrolment"]["state"] == "done"
        # Whoever has changed somebody sees it at once.
        self.check(self.predict([user]), [user], {user: {name}})


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("lora[rank=2]", 5),
        ("user-majority", 8),
        ("lora[rank=2]+guard", 3),
        pytest.param("lora[rank=2]", 100, marks=pytest.mark.slow),
        pytest.param("user-majority", 200, marks=pytest.mark.slow),
        pytest.param("lora[rank=2]+guard", 50, marks=pytest.mark.slow),
    ],
)
def test_every_answer_is_of_a_version_that_the_user_had(method: str, changes: int, tmp_path: Path) -> None:
    """Two users change, each by one who waits for the change; two stay; two ask, about any of them together."""
    fitted_of(method).save(tmp_path / "kept")
    versions = Versions(tmp_path / "kept", tmp_path)
    with serving(tmp_path / "kept", limits=Limits(resident_bytes=20_000)) as client:  # a few rows: the rest is evicted
        play = Play(client, versions)
        asking = [Actor(play.ask, seed) for seed in range(2)]
        changing = [Actor(play.change, user, changes, seed) for seed, user in enumerate(versions.users[:2])]
        for actor in (*asking, *changing):
            actor.start()
        try:
            for actor in changing:
                actor.ended()
        finally:
            play.ended.set()
        for actor in asking:
            actor.ended()


class Halt:
    """A method of a class that waits in the middle, until it may go on."""

    def __init__(self, patch: pytest.MonkeyPatch, cls: type, name: str) -> None:
        self.there, self.free = threading.Event(), threading.Event()
        inner = getattr(cls, name)

        def halting(*given: Any) -> Any:
            self.there.set()
            assert self.free.wait(100)
            return inner(*given)

        patch.setattr(cls, name, halting)


def test_a_guard_answers_as_before_until_both_its_methods_are_enrolled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It chooses between its methods last: until it has, the row that is new already does not answer."""
    fitted_of("lora[rank=2]+guard").save(tmp_path / "kept")
    versions = Versions(tmp_path / "kept", tmp_path)
    halt = Halt(monkeypatch, GuardedFitted, "_right")
    with serving(tmp_path / "kept") as client:
        user = versions.users[0]
        body = {"json": {"users": [user], "inputs": TEXTS}}
        (before,) = client("POST", "/v1/predict", **body).json()["results"]
        examples = [{"text": text, "labels": [label]} for text, label in versions.examples[user, "more"]]
        client("PUT", f"/v1/users/{user}/examples", json={"examples": examples, "replace": True})
        assert halt.there.wait(100)
        (meanwhile,) = client("POST", "/v1/predict", **body).json()["results"]
        halt.free.set()
        client.enrolled(user)
        (after,) = client("POST", "/v1/predict", **body).json()["results"]
    assert meanwhile == before
    assert versions.of(user, after) == {"more"}
    assert after["module"] != before["module"]


def test_whoever_is_deleted_is_not_answered_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An enrolment that runs may take long; what waits behind it for the same user is off."""
    fitted_of("lora[rank=2]").save(tmp_path / "kept")
    versions = Versions(tmp_path / "kept", tmp_path)
    halt = Halt(monkeypatch, ModuleFitted, "_enrol")
    with serving(tmp_path / "kept") as client:
        user, other = versions.users[:2]
        body, examples = {"json": {"users": [user], "inputs": TEXTS}}, {"text": "a", "labels": ["likes"]}
        for _ in range(2):
            client("PUT", f"/v1/users/{user}/examples", json={"examples": [examples] * 3, "replace": True})
            assert halt.there.wait(100)
        waiting = client.service.people.enrolment(user)
        deletion = client.service.people.forget(user)
        assert client("POST", "/v1/predict", **body).status_code == 404
        assert client("GET", f"/v1/users/{user}").status_code == 404
        assert other in client("POST", "/v1/predict", json={"users": [other], "inputs": TEXTS}).text
        halt.free.set()
        assert deletion.done.result(100)
        assert client("POST", "/v1/predict", **body).status_code == 404
    assert waiting is not None
    assert waiting.state == "cancelled"
    assert user not in load(tmp_path / "kept", Lab()).users
