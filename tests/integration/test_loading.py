"""A base from a folder: which base it is, and that nothing in the folder is run, guessed or read at half."""

import contextlib
import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hub
from safetensors.torch import load_file, save_file
from tokenizers import normalizers, pre_tokenizers

from peftu.base import known_files
from peftu.base.identity import fingerprint
from peftu.base.model import load_base, wrap
from peftu.config import HardwareSpec
from peftu.data.sources import cache_dir
from peftu.errors import PeftuError
from peftu.testing import CPU, FAMILIES, tiny_base, tiny_model, tiny_prompt, tiny_texts, tiny_tokenizer

torch.set_num_threads(1)

DTYPES = (torch.float32, torch.bfloat16)
HARDWARE = [HardwareSpec(device="cpu", dtype=name) for name in ("float32", "bfloat16")]
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of tiny bases, one a family, not to be changed."""
    home = tmp_path_factory.mktemp("kept")
    for family in FAMILIES:
        model, tokenizer = tiny_model(family)
        model.save_pretrained(home / family)
        tokenizer.save_pretrained(home / family)
    return home


@pytest.fixture
def folder_of(kept: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda family: Path(shutil.copytree(kept / family, tmp_path / family))


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(folder: Path, words: str) -> None:
    with pytest.raises(PeftuError, match=words) as caught:
        load_base(str(folder))
    said = str(caught.value)
    assert "\n" not in said
    assert str(folder) in said
    assert " — " in said


# --- identity --------------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_weights_config_and_tokenizer() -> None:
    def of(
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        change: Callable[[Any], None] = lambda _: None,
        **settings: Any,
    ) -> str:
        model, tokenizer = tiny_model("llama", seed)
        change(tokenizer)
        model.config.update(settings)
        return wrap(model.to(dtype), tokenizer, "x").fingerprint

    def digits_apart(tokenizer: Any) -> None:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Digits(individual_digits=True)

    def lower(tokenizer: Any) -> None:
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()

    def chat(tokenizer: Any) -> None:
        tokenizer.chat_template = "{{ messages }}"

    def ends(tokenizer: Any) -> None:
        tokenizer.eos_token = "a"  # noqa: S105

    def used(tokenizer: Any) -> None:  # leaves cutting and padding switched on inside the tokenizer
        tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)

    plain = of()
    assert plain.startswith("v2:sha256:")
    assert of() == of(change=used) == of(_name_or_path="elsewhere", use_cache=False) == plain
    others = [of(seed=1), of(change=digits_apart), of(change=lower), of(change=chat), of(change=ends)]
    others += [of(rms_norm_eps=1e-3), of(dtype=torch.bfloat16)]  # in memory nothing else says what was published
    assert len({plain, *others}) == 8


@pytest.mark.parametrize("published", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_is_the_same_in_every_number_type(family: str, published: torch.dtype, tmp_path: Path) -> None:
    made = tiny_base(family, dtype=published)
    model, tokenizer = made.family.model, made.family.tokenizer  # type: ignore[attr-defined]
    for name, size in (("whole", "1GB"), ("shards", "20KB")):
        model.save_pretrained(tmp_path / name, max_shard_size=size)  # type: ignore[operator]
        tokenizer.save_pretrained(tmp_path / name)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    loaded = [load_base(str(tmp_path / name), place) for name in ("whole", "shards") for place in HARDWARE]
    assert {base.fingerprint for base in loaded} == {made.fingerprint}
    assert {base.dtype for base in loaded} == set(DTYPES)
    assert len({base.former_fingerprint for base in loaded}) == 2
    same = next(base for base in loaded if base.dtype == published)
    assert same.former_fingerprint == made.former_fingerprint
    if published == torch.float32:  # rounding a model in memory rounds more than its weights
        region = made.region(None)
        contexts = [base.prefill(tiny_prompt(), tiny_texts(3), region) for base in (same, made)]
        assert torch.equal(*(base.readout(x, torch.arange(3)) for base, x in zip((same, made), contexts, strict=True)))


def test_a_base_that_does_not_fit_is_a_line(folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(PeftuError, match=r"llama: too large for the memory of cpu \(float32\) — pass --quantize nf4"):
        load_base(str(folder_of("llama")), CPU)


def test_the_former_fingerprint_is_golden() -> None:
    """Modules of earlier releases are known by it."""
    assert tiny_base("llama").former_fingerprint == FORMER
    assert tiny_base("llama", dtype=torch.bfloat16).former_fingerprint != FORMER


FORMER = "sha256:a1c9feed00a5a0ca88817d8b0a80b1a8c949b68e5bfb86c473911e2af0302445"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fingerprints that were made by reading weights, of files however young."""
    made: list[str] = []

    def counted(*arguments: Any) -> str:
        made.append(fingerprint(*arguments))
        return made[-1]

    monkeypatch.setattr(known_files, "fingerprint", counted)
    monkeypatch.setattr(known_files, "SETTLED_NS", -(10**15))
    return made


def test_weights_that_lie_untouched_are_hashed_once(folder_of: Callable[[str], Path], hashed: list[str]) -> None:
    folder = folder_of("llama")
    first, second, other = (load_base(str(folder), place) for place in (*HARDWARE, HARDWARE[0]))
    assert first.fingerprint == second.fingerprint == other.fingerprint
    assert hashed == [first.fingerprint]
    moved = load_base(str(folder.rename(folder.with_name("moved"))))
    assert hashed == [first.fingerprint, moved.fingerprint]


def _flip(folder: Path) -> None:
    """Alters one byte in place and sets the file's time back, as a careful copier would."""
    path = folder / "model.safetensors"
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _lower(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": {"type": "Lowercase"}}))


@pytest.mark.parametrize("change", [
    _flip, _lower, lambda folder: edit(folder / "config.json", rms_norm_eps=1e-3),
    lambda folder: edit(folder / "generation_config.json", eos_token_id=3),
], ids=["weights", "tokenizer", "config", "stops"])  # fmt: skip
def test_a_known_folder_that_changes_is_another_base(
    change: Callable[[Path], None], folder_of: Callable[[str], Path], hashed: list[str]
) -> None:
    folder = folder_of("llama")
    before = load_base(str(folder)).fingerprint
    change(folder)
    after = load_base(str(folder)).fingerprint
    assert before != after
    assert hashed == [before, after]


def test_a_file_just_written_is_not_taken_to_lie_untouched(
    folder_of: Callable[[str], Path], hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_files, "SETTLED_NS", 10**15)
    folder = str(folder_of("llama"))
    assert [load_base(folder).fingerprint for _ in range(2)] == hashed


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": 1}', "\0"])
def test_a_damaged_cache_of_fingerprints_is_ignored(
    content: str, folder_of: Callable[[str], Path], hashed: list[str]
) -> None:
    folder = str(folder_of("llama"))
    before = load_base(folder).fingerprint
    (place,) = (cache_dir() / "fingerprints").iterdir()
    place.write_text(content)
    assert [load_base(folder).fingerprint for _ in range(2)] == [before] * 2
    assert len(hashed) == 2
    shutil.rmtree(place.parent)
    place.parent.write_text("a file where the folder was")
    assert load_base(folder).fingerprint == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_cache_of_fingerprints_that_cannot_be_written_is_read(
    number: int, folder_of: Callable[[str], Path], hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    known, unknown = str(folder_of("llama")), str(folder_of("gpt2"))
    before = load_base(known).fingerprint
    monkeypatch.setattr(os, "fsync", refuse)
    assert load_base(known).fingerprint == before
    assert [load_base(unknown).fingerprint for _ in range(2)] == hashed[1:]
    assert len(list((cache_dir() / "fingerprints").iterdir())) == 1  # no half file


# --- what is refused -------------------------------------------------------------------------------------------------


def _cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def _lacking(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(next(name for name in sorted(tensors) if "layer" in name))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def _strange_tokenizer(folder: Path) -> None:
    """Files that say nothing of the vocabulary, as when only the settings were copied."""
    _no_tokenizer(folder)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")


def _more_tokens(folder: Path) -> None:
    tokenizer = tiny_tokenizer(closing=True)
    tokenizer.add_tokens(["word"])
    tokenizer.save_pretrained(folder)


def _adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "elsewhere"}')


def _pipe(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    os.mkfifo(folder / "tokenizer_config.json")


def _endless(folder: Path) -> None:
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "generation_config.json").symlink_to("/dev/zero")


def config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **values)


def written(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: bool((folder / name).write_text(text)) and None


HARMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "another type": (config(model_type="no-such-type"), "models of type 'no-such-type'"),
    "no type": (config(model_type=None), "models of type 'None'"),
    "a type that is a list": (config(model_type=["llama"]), "models of type"),
    "cut weights": (_cut, "get the folder again"),
    "weights without a layer's": (_lacking, "its weights lack"),
    "narrower than its weights": (config(intermediate_size=24), "get the folder again"),
    "fewer layers than its weights": (config(num_hidden_layers=1), "its config has no .*layer.*in all"),
    "no width": (config(hidden_size=0), "hidden_size 0|ZeroDivisionError"),
    "a width in words": (config(hidden_size="wide"), "hidden_size|wide|get the folder again"),
    "no layers": (config(num_hidden_layers=0), "num_hidden_layers 0"),
    "a million layers": (config(num_hidden_layers=1_000_000), "num_hidden_layers 1000000, its weights are"),
    "quantised": (config(quantization_config={"quant_method": "gptq", "bits": 4}), r"quantised \(gptq\)"),
    "an adapter within": (_adapter, "holds an adapter"),
    "no tokenizer": (_no_tokenizer, "has no tokenizer"),
    "five words": (_strange_tokenizer, "knows 5 tokens|get the folder again|check the folder"),
    "more tokens than rows": (_more_tokens, "has token 100, its embedding ends at 99"),
    "a pipe": (_pipe, "tokenizer_config.json is not a plain file"),
    "an endless file": (_endless, "generation_config.json is not a plain file"),
    "a deep config": (written("config.json", DEEP), "config.json .*nested too deep"),
    "a deep tokenizer": (written("tokenizer.json", DEEP), "tokenizer.json .*nested too deep"),
    "a deep generation config": (written("generation_config.json", DEEP), "generation_config.json .*nested too deep"),
    "a config that is a list": (written("config.json", "[]"), "config.json holds no JSON object"),
    "a tokenizer that is a number": (written("tokenizer.json", "1"), "check the folder's config and tokenizer"),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_damaged_folder_is_one_clear_line(family: str, harm: str, folder_of: Callable[[str], Path]) -> None:
    folder, (change, words) = folder_of(family), HARMS[harm]
    change(folder)
    refused(folder, words)


def test_a_folder_s_own_code_is_never_run(
    folder_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of an unknown model nor of a known one's tokenizer, whatever is typed when transformers asks."""
    mark = tmp_path / "ran"
    for change in ({"model_type": "own"}, {}):
        folder = folder_of("llama")
        (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
        edit(
            folder / "config.json",
            auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoModel": "own.Own"},
            **change,
        )
        own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
        edit(folder / "tokenizer_config.json", **own)
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
        if change:
            refused(folder, "models of type 'own'")
        else:
            with contextlib.suppress(PeftuError):
                load_base(str(folder))
        assert not mark.exists()
        shutil.rmtree(folder)


def test_weights_come_from_safetensors_alone(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("bert")
    other = tiny_model("bert", seed=5)[0].state_dict()
    torch.save(other, folder / "pytorch_model.bin")
    assert load_base(str(folder), CPU).fingerprint == tiny_base("bert").fingerprint
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    refused(folder, "has no model.safetensors")


@pytest.mark.parametrize("place", ["../model.safetensors", "gone.safetensors", "pytorch_model.bin"])
def test_an_index_names_files_of_its_own_folder(place: str, folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("bert")
    shutil.copy(folder / "model.safetensors", folder.parent)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": place}}))
    refused(folder, f"names '{place}'")


SHAPE = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
HEADLESS: dict[str, Callable[[], Any]] = {
    "LlamaModel": lambda: hub.LlamaModel(hub.LlamaConfig(**SHAPE, intermediate_size=48)),
    "GPT2Model": lambda: hub.GPT2Model(hub.GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4)),
    "T5EncoderModel": lambda: hub.T5EncoderModel(
        hub.T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    ),
}


@pytest.mark.parametrize("kind", HEADLESS)
def test_a_writer_without_its_output_matrix_is_one_line(kind: str, tmp_path: Path) -> None:
    model, tokenizer = HEADLESS[kind](), tiny_tokenizer()
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    refused(tmp_path / "base", f"{kind} has no output matrix — use the model that writes text")
    with pytest.raises(PeftuError, match=f"{kind} is not how peftu reads a .* — pass the model that writes text"):
        wrap(model, tokenizer, "x")
    if not model.config.tie_word_embeddings:
        edit(tmp_path / "base" / "config.json", architectures=None)
        refused(tmp_path / "base", "its weights lack|get the folder again")


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("config", "num_decoder_layers", 10**9),  # counted before they are made
        ("config", "decoder_start_token_id", None),
        ("config", "decoder_start_token_id", 100),
        ("config", "relative_attention_max_distance", 0),
        ("config", "architectures", 3),
        ("generation_config", "eos_token_id", "x"),
        ("generation_config", "eos_token_id", 1e308),
    ],
)
def test_a_setting_without_sense_is_named(file: str, field: str, value: Any, folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("t5")
    edit(folder / f"{file}.json", **{field: value})
    refused(folder, f"{field} {value!r}".replace("+", r"\+"))


def test_a_folder_that_cannot_be_read_is_one_line(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    folder = folder_of("bert")
    monkeypatch.setattr(Path, "iterdir", denied)
    refused(folder, "Permission denied")


def test_an_encoder_is_read_from_both_sides(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("bert")
    config(is_decoder=True)(folder)
    refused(folder, "reads from left to right")
