"""An encrypted store: nothing of a module can be read without the key, and everything else is as without one."""

import os
from pathlib import Path

import pytest
import torch
from stores import ANNA, BEN, KIND, OTHER, WIDTH, bytes_of, rows, save_two

from peftu.errors import PeftuError
from peftu.store import AdapterStore
from peftu.store.seal import KEY_FILE, OVERHEAD, make_key

torch.set_num_threads(1)


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = make_key(tmp_path / "key")
    monkeypatch.setenv(KEY_FILE, str(path))
    return path


@pytest.fixture
def folder(key: Path, tmp_path: Path) -> Path:
    return save_two(tmp_path)


def test_what_is_put_is_got_back_and_lies_nowhere(folder: Path) -> None:
    with AdapterStore(folder) as store:
        store.add(OTHER, ["carl", ANNA], rows(2, 3), [1, 1])
        assert torch.equal(store.get(KIND, [BEN, ANNA]), rows(2)[[1, 0]])
        assert torch.equal(store.get(OTHER, ["carl"]), rows(2, 3)[:1])
        assert store.verify() == 4
        for row in (*rows(2), *rows(2, 3)):
            assert row.numpy().tobytes()[:8] not in bytes_of(folder)
    sizes = sorted(path.stat().st_size for path in (folder / "shards").iterdir())
    assert all(size < 2 * (4 * WIDTH + OVERHEAD) + 200 for size in sizes)


def test_without_its_key_a_store_is_tidied_and_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_FILE)
    with AdapterStore(folder) as store:
        for look in (lambda: store.get(KIND, [BEN]), store.verify, lambda: store.add(KIND, [ANNA], rows(1), [1])):
            with pytest.raises(PeftuError, match=f"modules are encrypted — name their key file in {KEY_FILE}"):
                look()
        assert store.erase(ANNA) == 1
        assert store.keys(KIND) == [BEN]
    monkeypatch.setenv(KEY_FILE, str(folder.parent / "key"))
    with AdapterStore(folder) as store:
        assert torch.equal(store.get(KIND, [BEN]), rows(2)[1:])


def test_another_key_opens_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_FILE, str(make_key(folder.parent / "another")))
    with pytest.raises(PeftuError, match="is encrypted with another key"):
        AdapterStore(folder)


def test_no_flipped_byte_of_a_sealed_row_passes(folder: Path) -> None:
    (shard,) = (folder / "shards").iterdir()
    whole = shard.read_bytes()
    with AdapterStore(folder) as store:
        for place in range(len(whole) - 2 * (4 * WIDTH + OVERHEAD), len(whole)):
            shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(
                PeftuError, match=r"encrypted with another key, or altered\) — restore it or train again"
            ):
                store.get(KIND, [ANNA, BEN])


def test_a_store_that_was_made_without_a_key_stays_as_it_is(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_FILE)
    folder = save_two(tmp_path)
    monkeypatch.setenv(KEY_FILE, str(key))
    with AdapterStore(folder, create=True) as store:
        store.add(KIND, ["carl"], rows(1, 4), [1])
    monkeypatch.delenv(KEY_FILE)
    with AdapterStore(folder) as store:
        assert torch.equal(store.get(KIND, ["carl"]), rows(1, 4))


def test_a_key_file_that_is_none_is_one_line(folder: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PeftuError, match="is there already"):
        make_key(key)
    assert key.stat().st_mode & 0o777 == 0o600
    if os.name == "posix":
        key.chmod(0o644)
        with pytest.raises(PeftuError, match="may be read by others — chmod 600 it"):
            AdapterStore(folder)
        key.chmod(0o600)
    for content in (b"", b"00", b"no hexadecimal", b"\xff" * 32):
        key.write_bytes(content)
        with pytest.raises(PeftuError, match=r"holds no key — make one with 'peftu store key FILE'") as caught:
            AdapterStore(folder)
        assert "\n" not in str(caught.value)
    monkeypatch.setenv(KEY_FILE, str(key / "nowhere"))
    with pytest.raises(PeftuError, match="holds no key"):
        AdapterStore(folder)
