"""A region that was kept is the region that was made; a broken file is made again; texts stay out of it."""

import os
import stat
from pathlib import Path

import pytest
import torch

from peftu.base import cache
from peftu.base.cache import LIMIT, RegionCache
from peftu.base.families.family import Context
from peftu.base.model import FrozenBase
from peftu.config import RegionSpec
from peftu.errors import PeftuError
from peftu.testing import FAMILIES, regions_of, tiny_base, tiny_prompt, tiny_texts

torch.set_num_threads(1)

WORDS = ("no", "nor", "yes")


class Counting:
    """A cache over one base and its texts, and how often it had to compute."""

    def __init__(self, base: FrozenBase, folder: Path, limit: int = 1 << 30) -> None:
        self.base, self.cache, self.made = base, RegionCache(folder, limit, least=0), 0

    def get(self, texts: int = 5, region: RegionSpec | None = None) -> Context:
        prompt, resolved, read = tiny_prompt(WORDS), self.base.region(region), tiny_texts(texts)

        def make() -> Context:
            self.made += 1
            return self.base.prefill(prompt, read, resolved)

        return self.cache.get(self.base, prompt, resolved, read, make)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_kept_region_scores_bit_for_bit_as_a_made_one(family: str, tmp_path: Path) -> None:
    base = tiny_base(family)
    counting = Counting(base, tmp_path / "regions")
    for number, region in enumerate(regions_of(base), 1):
        made, kept = counting.get(region=region), counting.get(region=region)
        assert counting.made == number
        rows = torch.arange(5)
        assert torch.equal(base.readout(made, rows), base.readout(kept, rows))
        assert (made.count, made.cut, made.tokens, made.span_tokens, made.longest) == (
            (kept.count, kept.cut, kept.tokens, kept.span_tokens, kept.longest)
        )
        assert made.seconds == 0 < kept.seconds


def test_another_base_text_or_region_is_another_file(tmp_path: Path) -> None:
    first, other = Counting(tiny_base("llama"), tmp_path), Counting(tiny_base("llama", seed=1), tmp_path)
    for counting in (first, other):
        counting.get()
        counting.get(texts=4)
        counting.get(region=RegionSpec(depth=2))
        counting.get()
        assert counting.made == 3
    assert len(list(tmp_path.iterdir())) == 6


def test_equal_weights_read_in_another_way_are_another_file(tmp_path: Path) -> None:
    for change in ({}, {"rms_norm_eps": 0.5}):
        counting = Counting(tiny_base("llama"), tmp_path)
        counting.base.family.model.config.update(change)
        counting.get()
        assert counting.made == 1
    dated = Counting(tiny_base("llama"), tmp_path)
    dated.base.family.tokenizer.chat_template = "{{ messages[0].content }}!{{ messages[1].content }}?"
    dated.get()
    assert dated.made == 1
    ended = Counting(tiny_base("llama"), tmp_path)
    ended.base.family.tokenizer.bos_token = "!"  # noqa: S105
    ended.get()
    assert ended.made == 1


def test_a_large_region_is_paid_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MEMORY_BYTES", 0)
    counting = Counting(tiny_base("llama"), tmp_path)
    assert counting.get().seconds == 0 < counting.get().seconds
    assert counting.made == 1


def test_what_an_interrupted_write_left_goes(tmp_path: Path) -> None:
    old, new = tmp_path / "old.part", tmp_path / "new.part"
    for path in (old, new):
        path.write_bytes(b"states")
    os.utime(old, (0, 0))
    Counting(tiny_base("llama"), tmp_path).get()
    assert not old.exists()
    assert new.exists()  # somebody may be writing it


def test_names_hold_hashes_and_files_are_the_owner_s(tmp_path: Path) -> None:
    Counting(tiny_base("llama"), tmp_path / "regions").get()
    (file,) = (tmp_path / "regions").iterdir()
    key, digest, _ = file.name.split(".")
    assert len(key) == len(digest) == 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert tiny_texts(1)[0].text.encode() not in file.read_bytes()


@pytest.mark.parametrize("broken", [b"", b"\x08\0\0\0\0\0\0\0{}      ", None])
def test_a_broken_file_is_made_again(broken: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counting = Counting(tiny_base("llama"), tmp_path)
    made = counting.get()
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if broken is None else broken)
    again = counting.get()
    assert counting.made == 2
    assert "computed again" in caplog.text
    assert torch.equal(made.state["kv"][1][0], again.state["kv"][1][0])
    counting.get()
    assert counting.made == 2


def test_the_least_recently_used_makes_room(tmp_path: Path) -> None:
    counting = Counting(tiny_base("llama"), tmp_path)
    counting.get(texts=4)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    counting.cache.limit = int(2.9 * size)
    counting.get(texts=5)
    counting.get(texts=4)
    counting.get(texts=6)
    assert counting.made == 3
    counting.get(texts=4)
    assert counting.made == 3
    counting.get(texts=5)
    assert counting.made == 4
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= counting.cache.limit


def test_nothing_is_kept_at_a_limit_of_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "0")
    counting = Counting(tiny_base("llama"), tmp_path)
    counting.cache = RegionCache(tmp_path, least=0)
    counting.get()
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv(LIMIT, "8GB")
    with pytest.raises(PeftuError, match="not a number of bytes"):
        RegionCache()
