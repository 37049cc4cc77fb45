import json
import subprocess
import sys
from pathlib import Path

import pytest

from peftu.base.cards import bases, describe_bases, weights_at_hand
from peftu.base.marker import MARKER, is_whole, write_marker
from peftu.errors import PeftuError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEFTU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", bases.names())
def test_every_card_is_whole(name: str) -> None:
    card = bases.get(name)
    assert card.name == name
    assert len(card.revision) == 40
    assert int(card.revision, 16)
    assert card.licence
    assert "arXiv:" in card.citation
    assert card.description.endswith(".")
    assert card.pooling is None or card.family == "encoder"
    for file in card.files:
        assert file.package
        assert "==" in file.package
        assert file.member
        assert file.sha256
        assert len(file.sha256) == 64
        assert file.bytes
    for file in card.zipped:
        assert file.member
        assert len(file.sha256 or "") == 64
        assert file.bytes
    assert card.gguf is None or card.gguf in {file.name for file in card.files}


def test_a_mistyped_base_gets_a_suggestion() -> None:
    with pytest.raises(PeftuError, match="did you mean 'smollm2-135m-instruct'"):
        bases.get("smollm2-135m")


def test_the_list_names_each_base_and_says_what_is_at_hand(cache: Path) -> None:
    rows = describe_bases()
    assert [row["name"] for row in rows] == bases.names()
    assert {row["cached"] for row in rows} == {False}
    assert json.loads(json.dumps(rows)) == rows

    card = bases.get("all-minilm-l6-v2")
    card.folder.mkdir(parents=True)
    (card.folder / "config.json").write_text("{}")
    write_marker(card.folder, card.recipe, {}, {})
    assert {row["name"] for row in describe_bases() if row["cached"]} == {"all-minilm-l6-v2"}
    assert weights_at_hand(card) == card.folder


def test_a_cached_folder_belongs_to_one_recipe(cache: Path) -> None:
    card = bases.get("smollm2-135m-instruct")
    other = card.model_copy(update={"split_digits": False})
    assert card.folder != other.folder
    assert card.folder.parent == cache / "bases"


def test_a_marker_sees_what_changed_after_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1234")
    assert not is_whole(tmp_path, "r")

    write_marker(tmp_path, "r", {}, {})
    assert is_whole(tmp_path, "r")
    assert not is_whole(tmp_path, "another recipe")

    (tmp_path / "a").write_bytes(b"123")
    assert not is_whole(tmp_path, "r")
    (tmp_path / "a").unlink()
    assert not is_whole(tmp_path, "r")

    (tmp_path / MARKER).write_text("half a mark")
    assert not is_whole(tmp_path, "r")


def test_cards_need_no_model_library() -> None:
    code = (
        "import sys, peftu.base.cards, peftu.base.weights; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
