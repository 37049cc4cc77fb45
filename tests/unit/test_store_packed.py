"""A store in int8, and one whose shards lie elsewhere, are as any other; numbers in int8 are near those before."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stores import ANNA, BEN, KIND, OTHER, WIDTH, bytes_of, rows, save_two

from peftu.errors import PeftuError
from peftu.store import AdapterStore, homes, int8, rounded
from peftu.store.seal import KEY_FILE, make_key

torch.set_num_threads(1)

MEMORY = "memory://people/modules"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_two(tmp_path)


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return MEMORY if request.param == "memory" else f"file://{tmp_path}/elsewhere"


def plain(row: np.ndarray) -> np.ndarray:
    """Each block of 64 by itself, in doubles."""
    result = np.zeros(len(row))
    for first in range(0, len(row), 64):
        block = row[first : first + 64].astype(np.float64)
        step = float(np.abs(block).max()) / 127
        result[first : first + 64] = np.rint(block / step) * step if step else 0
    return result


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_numbers_are_near_and_packed_again_the_same(row: np.ndarray) -> None:
    cell = int8.pack(row)
    assert len(cell) == int8.packed_size(len(row))
    kept = np.empty_like(row)
    int8.unpack(cell, kept)
    assert np.isfinite(kept).all()
    assert int8.pack(kept) == cell
    for first in range(0, len(row), 64):
        part = slice(first, first + 64)
        most = float(np.abs(row[part]).max())
        assert np.abs(kept[part].astype(np.float64) - row[part]).max() <= most * (0.5 / 127 + 2e-4) + 1e-43


def test_blocks_are_scaled_by_themselves() -> None:
    row = (np.random.default_rng(0).standard_normal(200) * np.repeat([1, 1e-3, 0, 30], 50)).astype(np.float32)
    kept = np.empty_like(row)
    int8.unpack(int8.pack(row), kept)
    np.testing.assert_allclose(kept, plain(row), rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_packed_store_has_near_numbers_under_checksums_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    if sealed:
        monkeypatch.setenv(KEY_FILE, str(make_key(tmp_path / "key")))
    folder = save_two(tmp_path)
    with AdapterStore(folder) as store:
        store.add(OTHER, ["carl", ANNA], rows(2, 3), [1, 1])
        before = store.answering(KIND, [ANNA])[ANNA]
        if sealed:
            with monkeypatch.context() as patch:
                patch.delenv(KEY_FILE)
                with AdapterStore(folder) as keyless, pytest.raises(PeftuError, match="modules are encrypted"):
                    keyless.pack(int8=True)
        assert store.pack(int8=True) == 4
        after = store.answering(KIND, [ANNA])[ANNA]
        assert (after.number, after.status) == (before.number, before.status)
        assert after.checksum != before.checksum
        assert torch.equal(store.get(KIND, [BEN, ANNA]), rounded(rows(2))[[1, 0]])
        assert torch.equal(store.get(OTHER, ["carl"]), rounded(rows(2, 3))[:1])
        assert store.pack(int8=True) == 0
        store.add(KIND, ["dora"], rows(1, 5), [1])
        assert torch.equal(store.get(KIND, ["dora"]), rounded(rows(1, 5)))
        assert store.verify() == 5
        if sealed:
            monkeypatch.delenv(KEY_FILE)
        with AdapterStore(folder) as tidied:  # for which no key is needed
            assert tidied.erase(ANNA) == 2
    secrets = [int8.pack(row.numpy())[4:] for row in (rows(2)[0], rows(2, 3)[1])]
    for secret in [*secrets, ANNA.encode(), *(row.numpy().tobytes() for row in rows(2))]:
        assert secret not in bytes_of(folder)


def test_a_damaged_module_is_not_packed(folder: Path) -> None:
    (shard,) = (folder / "shards").iterdir()
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with AdapterStore(folder) as store:
        with pytest.raises(PeftuError, match="row 1 does not match its checksum"):
            store.pack(int8=True)
        assert torch.equal(store.get(KIND, [ANNA]), rows(1))
        shard.write_bytes(whole)
        assert store.pack(int8=True) == 2
        assert store.verify() == 2


# --- elsewhere --------------------------------------------------------------------------------------------------------


def objects(url: str) -> dict[str, bytes]:
    from fsspec.core import url_to_fs

    system, path = url_to_fs(url)
    return {name: system.cat_file(name) for name in system.find(path)}


def test_shards_that_lie_elsewhere_are_read_rewritten_and_deleted_there(
    folder: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = AdapterStore(folder)
    with AdapterStore(folder) as store:
        assert store.pack(home=url) == 2
        assert list((folder / "shards").iterdir()) == []
        assert torch.equal(reader.get(KIND, [BEN]), rows(2)[1:])
        store.add(OTHER, ["carl", ANNA], rows(2, 3), [1, 1])
        assert len(objects(url)) == 2
        assert store.pack(home=url) == 0
        assert torch.equal(reader.get(OTHER, [ANNA, "carl"]), rows(2, 3)[[1, 0]])
        assert store.erase(ANNA) == 2
        held = b"".join(objects(url).values())
        for secret in (rows(2)[0], rows(2, 3)[1]):
            assert secret.numpy().tobytes() not in held
        assert store.verify() == reader.verify() == 2
        assert store.pack(home="here") == 2
        assert objects(url) == {}
        assert store._index.setting("shards") == "here"  # nobody looks there any more
        assert torch.equal(reader.get(KIND, [BEN]), rows(2)[1:])
        monkeypatch.setattr("peftu.store.deletion.MANY", 3)
        store.pack(home=url)
        for place in range(3):
            store.add(OTHER, [f"user-{place}"], rows(1, place), [1])
        store.gc()
        assert len(objects(url)) == 1
        assert store.verify() == 5
    reader.close()
    with AdapterStore(folder) as store:
        for user in store.keys(OTHER):
            store.delete(user)
        store.erase(BEN)
    assert objects(url) == {}


def test_rows_are_fetched_by_ranges(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many, users = rows(50, 3), [f"user {place}" for place in range(50)]
    with AdapterStore(folder) as store:
        store.pack(home=MEMORY)
        store.add(OTHER, users, many, [1] * 50)
    fetched: list[int] = []
    ahead = homes._Object.ahead

    def counted(self: homes._Object, start: int, stop: int) -> None:
        fetched.append(stop - start)
        ahead(self, start, stop)

    monkeypatch.setattr(homes._Object, "ahead", counted)
    with AdapterStore(folder) as store:
        wanted = [30, 4, 3, 49, 5]
        assert torch.equal(store.get(OTHER, [users[place] for place in wanted]), many[wanted])
        assert sorted(fetched)[:3] == [4 * WIDTH, 4 * WIDTH, 3 * 4 * WIDTH]
        assert len(fetched) <= 3 + 3  # the header once, or once for each thread
        fetched.clear()
        store.get(OTHER, users[:1])
        assert fetched == [4 * WIDTH]
        store.erase(ANNA), store.erase(BEN)
        for user in users:
            store.delete(user)
        store.gc()


def test_an_object_of_a_killed_writer_goes_and_one_that_is_being_written_stays(folder: Path, url: str) -> None:
    with AdapterStore(folder) as store:
        store.pack(home=url)
        home = next(iter(objects(url))).rpartition("/")[0]
        prefix = url if home.endswith(url.rpartition("://")[2]) else f"{url}/{home.rpartition('/')[2]}"
        left = folder / "left"
        left.write_bytes(rows(1, 9).numpy().tobytes())
        homes.put(left, f"{prefix}/left.safetensors")
        assert len(objects(url)) == 2
        held = store._shards.written(1, store._shards.form(WIDTH), [rows(1, 8).numpy().tobytes()])
        with held as ((name, _),), AdapterStore(folder) as other:
            other.gc()
            assert len(objects(url)) == 2
            assert any(found.endswith(name.rpartition("/")[2]) for found in objects(url))
        assert len(objects(url)) == 1
        store.delete(ANNA), store.erase(BEN)
        store.gc()
    assert objects(url) == {}


@pytest.mark.parametrize(
    ("home", "complaint"),
    [
        ("elsewhere", "--shards: 'elsewhere' is no URL"),
        ("nothing://x/y", "nothing://: cannot be used here"),
        ("file:///dev/null/x", "file:///dev/null/x/.* — mend the address, its rights or the connection"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_one_line_and_changes_nothing(
    folder: Path, home: str, complaint: str
) -> None:
    before = bytes_of(folder / "shards")
    with AdapterStore(folder) as store:
        with pytest.raises(PeftuError, match=complaint) as caught:
            store.pack(home=home)
        assert "\n" not in str(caught.value)
        store.add(KIND, ["carl"], rows(1, 4), [1])
        assert torch.equal(store.get(KIND, [ANNA, BEN, "carl"]), torch.cat([rows(2), rows(1, 4)]))
    assert before in bytes_of(folder / "shards") or len(list((folder / "shards").iterdir())) == 2


def test_a_missing_or_cut_object_is_one_line(folder: Path) -> None:
    with AdapterStore(folder) as store:
        store.pack(home=MEMORY)
    from fsspec.core import url_to_fs

    (name,) = objects(MEMORY)
    system, _ = url_to_fs(MEMORY)
    whole = system.cat_file(name)
    for content, complaint in ((whole[:-1], "not a whole shard"), (None, "is missing — restore")):
        system.rm_file(name) if content is None else system.pipe_file(name, content)
        with AdapterStore(folder) as store, pytest.raises(PeftuError, match=complaint) as caught:
            store.get(KIND, [BEN])
        assert "\n" not in str(caught.value)
