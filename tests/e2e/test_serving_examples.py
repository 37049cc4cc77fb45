"""Labels that are sent are added to those a user is known by; they are kept, sealed and deleted with the user."""

import secrets
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from serving import Client, serving
from terminal import TASK, peftu

from peftu.errors import PeftuError
from peftu.execute.examples import KeptExamples, added, trained_on
from peftu.execute.stored import opened
from peftu.store.seal import KEY_FILE

torch.set_num_threads(1)

USER, LORA = "user-0", "lora[rank=2]"
MORE = [(f"Note {n} of soup.", ("likes",)) for n in range(4)]
NEW = [(f"Note {n} of kites.", ("dislikes",)) for n in range(3)]


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    made = ("compare", TASK, "--methods", f"{LORA},user-majority", "--base", "./llama", "--raw", "raw", "--epochs", 1)
    assert peftu(*made, "--region", "depth=1,span=answer", "--out", "kept").code == 0
    return place / "kept"


@pytest.fixture(autouse=True)
def cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets each test find the table that the run was made from."""
    monkeypatch.setenv("PEFTU_CACHE", str(place / "cache"))


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def put(client: Client, user: str, examples: list[Any], method: str = LORA, **more: Any) -> dict[str, Any]:
    body = {"examples": [{"text": text, "labels": list(labels)} for text, labels in examples], "method": method, **more}
    assert client("PUT", f"/v1/users/{user}/examples", json=body).status_code == 202
    return dict(client.enrolled(user)["enrolment"])


def chances(folder: Path, user: str, method: str) -> list[float]:
    return list(opened(folder, method).predict(user, ["a note of blue", "soup"])["p_likes"])


@pytest.fixture
def trained(own: Path, tmp_path: Path) -> Any:
    """Returns what a user's examples alone give, by the method itself."""
    number = iter(range(100))

    def give(examples: list[Any], user: str = USER, method: str = LORA) -> list[float]:
        folder = Path(shutil.copytree(own, tmp_path / f"alone-{next(number)}"))
        opened(folder, method).enrol(user, examples)
        return chances(folder, user, method)

    return give


@pytest.mark.parametrize("method", [LORA, "user-majority"])
def test_labels_are_added_to_what_the_run_trained_on(own: Path, trained: Any, method: str) -> None:
    earlier = trained_on(own, USER, 0)
    assert earlier
    once, twice = trained(added(earlier, MORE), method=method), trained(added(added(earlier, MORE), NEW), method=method)
    alone = trained(NEW, method=method)
    with serving(own) as client:
        assert put(client, USER, MORE, method)["state"] == "done"
        assert chances(own, USER, method) == pytest.approx(once, abs=1e-6)
        assert put(client, USER, NEW, method)["state"] == "done"
        assert chances(own, USER, method) == pytest.approx(twice, abs=1e-6)
        assert put(client, USER, NEW, method, replace=True)["state"] == "done"
        assert chances(own, USER, method) == pytest.approx(alone, abs=1e-6)


def test_a_text_said_twice_counts_as_said_last_and_in_every_method(own: Path, trained: Any) -> None:
    changed = [(MORE[0][0], ("dislikes",))]
    with serving(own) as client:
        put(client, "new", MORE)
        put(client, "new", changed, "user-majority")
    assert KeptExamples(own).of("new") == added(MORE, changed)
    assert len(KeptExamples(own).of("new") or ()) == len(MORE)
    assert chances(own, "new", "user-majority") == trained(added(MORE, changed), "new", "user-majority")


def test_labels_that_wait_are_enrolled_together(own: Path) -> None:
    with serving(own) as client:
        people = client.service.people
        with people._changed:  # nothing is begun until both are there
            people.enrol("new", f"{LORA}@./llama", MORE)
            people.enrol("new", f"{LORA}@./llama", NEW)
        assert client.enrolled("new")["enrolment"]["state"] == "done"
    assert KeptExamples(own).of("new") == added(MORE, NEW)


def test_what_was_trained_on_and_is_not_here_is_not_lost_in_silence(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTU_CACHE", str(tmp_path / "empty"))
    with serving(own) as client:
        before = chances(own, USER, LORA)
        refused = put(client, USER, MORE)
        assert refused["state"] == "failed"
        assert "replace" in refused["error"]
        assert chances(own, USER, LORA) == before
        assert put(client, USER, MORE, replace=True)["state"] == "done"
        assert put(client, USER, NEW)["state"] == "done"
    assert KeptExamples(own).of(USER) == added(MORE, NEW)


def test_a_deletion_reaches_them(own: Path) -> None:
    with serving(own) as client:
        put(client, "a secret key", MORE)
        put(client, "another", NEW)
        receipt = client("DELETE", "/v1/users/a secret key").json()
        remains = client("DELETE", f"/v1/users/{USER}").json()["remains"]
        put(client, USER, NEW)
    assert KeptExamples(own).of(USER) == added(NEW, ())  # what a table still has of them counts no more
    assert receipt["deleted"]["examples"] == len(MORE)
    assert any(line.endswith("rows with the user's texts and labels") for line in remains)
    assert not any(str(own) in line for line in remains)
    assert KeptExamples(own).of("another") == added(NEW, ())
    content = b"".join(path.read_bytes() for path in own.rglob("*") if path.is_file())
    assert b"a secret key" not in content
    assert MORE[0][0].encode() not in content
    assert peftu("forget", own, "--user", "another").code == 0
    assert KeptExamples(own).of("another") is None


def test_they_are_sealed_where_there_is_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, kept = tmp_path / "key", KeptExamples(tmp_path)
    kept.put(USER, MORE)
    for content in (secrets.token_hex(32), secrets.token_hex(32)):
        key.write_text(content)
        key.chmod(0o600)
        monkeypatch.setenv(KEY_FILE, str(key))
        if content == key.read_text() and not list(kept.folder.glob("*.sealed")):
            kept.put(USER, MORE)  # the plain one goes
            assert kept.of(USER) == added(MORE, ())
    (path,) = kept.folder.iterdir()
    assert MORE[0][0].encode() not in path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(PeftuError, match="encrypted with another key"):
        kept.of(USER)
    monkeypatch.delenv(KEY_FILE)
    with pytest.raises(PeftuError, match=KEY_FILE):
        kept.of(USER)
    assert kept.drop(USER) == 1
    assert kept.of(USER) is None
