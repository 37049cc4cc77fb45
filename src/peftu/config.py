"""Frozen descriptions of what to run; their canonical JSON names the run."""

import hashlib
import json
import re
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from peftu.errors import PeftuError
from peftu.outside import DEEPEST, LARGEST, is_plain, parse_json, quoted
from peftu.registry import did_you_mean

T = TypeVar("T", bound=BaseModel)
MOST = 2**31 - 1  # what every library below takes as a whole number
LONGEST = 80  # characters of a wrong value that a message repeats
Seed = Annotated[int, Field(ge=0, le=MOST)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantize = Literal["none", "int8", "nf4"]
Regime = Literal["within-user", "unseen-text", "unseen-user", "temporal", "published"]


def _plain(name: str) -> str:
    if not is_plain(name):
        raise ValueError("holds a control character")
    return name


def _usable(value: Any) -> Any:
    """Returns a free-form value whose numbers every method and task can take."""
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _usable(inner)
    if isinstance(value, str):
        _plain(value)
    if isinstance(value, int) and abs(value) > MOST:
        raise ValueError(f"holds a whole number beyond {MOST}")
    if isinstance(value, float) and not abs(value) <= LARGEST:  # NaN is not, either
        raise ValueError(f"holds {value}, which is no usable number")
    return value


Name = Annotated[str, AfterValidator(_plain)]
Free = Annotated[dict[str, Any], AfterValidator(_usable)]


class Spec(BaseModel):
    """A frozen, closed description: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def canonical(self) -> str:
        """Returns the one JSON text of this spec (sorted keys, no spaces), fit for hashing."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """Returns the sha256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def _depth(value: Any) -> Any:
    return None if value in ("full", "all", None) else value


class RegionSpec(Spec):
    """Where a personal module may act: the top ``depth`` layers, on all positions or from the end of the text on."""

    depth: Annotated[int | None, BeforeValidator(_depth)] = Field(None, ge=1, le=MOST, description="None: every layer.")
    span: Literal["all", "answer", "last"] = "all"

    @classmethod
    def parse(cls, text: str) -> "RegionSpec":
        """Returns the region for 'depth=6,span=answer' (either may be left out).

        Raises:
            PeftuError: a key or a value that is not known.
        """
        return validated(cls, assignments(text, "region"), "region")

    def __str__(self) -> str:
        return f"depth={self.depth or 'full'},span={self.span}"


class MethodSpec(Spec):
    """A method as asked for on the command line: its name, its knobs, the base it runs on."""

    name: Name
    params: Free = Field(default_factory=dict)
    base: Name | None = None

    @classmethod
    def parse(cls, text: str) -> "MethodSpec":
        """Returns the spec for 'name', 'name@base' or 'name[key=value,…]@base'; 'global+name' starts from everyone's.

        Raises:
            PeftuError: the text has another shape.
        """
        match = re.fullmatch(r"([\w.+-]+)(?:\[(.*?)\])?(?:@(.+))?", text.strip())
        if match is None:
            raise PeftuError(f"method {quoted(text)} is not of the form name[key=value,…]@base")
        name, knobs, base = match.groups()
        params = assignments(knobs, f"method {name}") if knobs else {}
        start, plus, rest = name.partition("+")
        if plus and start == "global":
            if "warm_start" in params:
                raise PeftuError(f"method {name}: 'global+' says where it starts — take warm_start out")
            name, params = rest, {**params, "warm_start": "global"}
        return validated(cls, {"name": name, "params": params, "base": base}, f"method {name}")

    def __str__(self) -> str:
        knobs = ",".join(f"{key}={value}" for key, value in sorted(self.params.items()))
        return self.name + (f"[{knobs}]" if knobs else "") + (f"@{self.base}" if self.base else "")


class SplitSpec(Spec):
    """How a user table becomes train, validation and test rows."""

    regime: Regime = Field("within-user", description="See peftu.data.splits.make_split.")
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    min_items: int = Field(10, ge=3, le=MOST, description="Users with fewer items are left out and counted.")
    users: int | None = Field(None, ge=1, le=MOST, description="At most this many users, drawn by hash; None: all.")
    max_items: int | None = Field(
        None, ge=3, le=MOST, description="At most this many items a user, drawn by hash; None: all."
    )
    k: int | None = Field(
        None, ge=0, le=MOST, description="unseen-user only: an unseen user's training items; None: 5."
    )
    unseen: float = Field(0.2, gt=0, lt=1, description="unseen-user only: share of users who are unseen.")


class TrainSpec(Spec):
    """How modules are trained. Every number is per user; nothing here depends on who else is in the cohort."""

    epochs: int = Field(8, ge=1, le=10_000)  # the order of a user's rows in all of them is drawn at once
    lr: float = Field(1e-3, gt=0)
    batch: int = Field(8, ge=1, le=2**16)
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of a user's steps with rising learning rate.")
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0, description="Largest norm of a user's gradient.")
    patience: int = Field(3, ge=1, le=MOST, description="Epochs without a better validation loss before a user stops.")
    shrink: float = Field(0.0, ge=0, description="Strength of the pull towards the warm start.")
    warm_start: Literal["none", "global"] = "none"
    offset: str = Field("none", description="A method without modules whose scores a module's are added to.")


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name):
        raise ValueError("is none of auto, cpu, cuda, cuda:N, mps")
    return name


class HardwareSpec(Spec):
    """Where bases compute and in which numbers; `peftu.base.hardware` says what 'auto' comes to on a machine."""

    device: Annotated[str, AfterValidator(_device)] = Field("auto", description="auto, cpu, cuda, cuda:N or mps.")
    dtype: Dtype = Field("auto", description="Number type that they run in.")
    quantize: Quantize = Field("none", description="How the weights of their layers are held.")


class RunSpec(HardwareSpec):
    """One comparison: a task, a split, methods on bases, seeds."""

    task: Name
    task_options: Free = Field(default_factory=dict)
    split: SplitSpec = SplitSpec()
    methods: tuple[MethodSpec, ...] = Field(min_length=1)
    base: Name = "smollm2-135m-instruct"
    region: RegionSpec | None = Field(None, description="None: the default of the base's family.")
    train: Free = Field(default_factory=dict, description="TrainSpec values that hold for every method.")
    preset: str | None = Field(None, description="Where defaults that nobody wrote come from; see peftu.preset.")
    settings: dict[str, Free] = Field(
        default_factory=dict, description="Method as asked for -> knobs and TrainSpec values from the preset."
    )
    metric: dict[str, str] = Field(default_factory=dict, description="Kind of task -> main metric, not its card's.")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    max_tokens: int = Field(256, ge=16, le=MOST, description="Longest text in tokens; longer ones are cut and counted.")
    max_answer_tokens: int = Field(
        128, ge=2, le=MOST, description="Longest free answer in tokens; longer ones are cut and counted."
    )
    generate: bool = Field(False, description="Free answers: also write one for every test row, as 'predicted'.")

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed stands twice")
        return seeds

    @property
    def run_id(self) -> str:
        """Returns twelve hex digits that name this run, on whatever device it is carried out."""
        return self.model_copy(update={"device": "auto"}).digest()[:12]

    @property
    def hardware(self) -> HardwareSpec:
        """Returns where its bases compute, and in which numbers."""
        return HardwareSpec(**{name: getattr(self, name) for name in HardwareSpec.model_fields})


def outside_brackets(text: str, sign: str) -> list[str]:
    """Returns the pieces of a text between signs; those inside brackets do not divide."""
    parts, depth = [""], 0
    for character in text:
        depth = max(0, depth + (character == "[") - (character == "]"))
        if character == sign and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def validated(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Returns the spec or method made from these values.

    Raises:
        PeftuError: one line with the first value that is wrong, and the closest known name for an unknown one.
    """
    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or cls.__name__
        if first["type"] == "extra_forbidden":
            hint = did_you_mean(str(first["loc"][-1]), _fields_around(cls, first["loc"]))
            raise PeftuError(f"{where}: unknown setting '{field}'{hint}") from None
        if first["type"] == "literal_error":
            known = re.findall(r"'([^']+)'", first["ctx"]["expected"])
            hint = did_you_mean(first["input"] if isinstance(first["input"], str) else "", known)
            raise PeftuError(f"{where}: {field}: unknown value {quoted(first['input'])}{hint}") from None
        wrong = first["msg"].removeprefix("Value error, ")
        raise PeftuError(f"{where}: {field}: {wrong} (got {quoted(first['input'])})") from None


def _fields_around(cls: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Returns the names that a nested setting could have had."""
    for name in place[:-1]:
        annotation = cls.model_fields[str(name)].annotation
        candidates = [annotation, *get_args(annotation)]
        cls = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(cls.model_fields)


def _scalar(text: str, where: str) -> Any:
    """Returns a value as JSON where it is JSON, else as text.

    Raises:
        PeftuError: it is JSON that is not fit to be read, such as brackets without end.
    """
    try:
        return parse_json(text)
    except json.JSONDecodeError:
        return text
    except ValueError as error:
        raise PeftuError(f"{where}: {error} — write a plainer value") from None


def assignments(text: str, where: str, dotted: bool = False) -> dict[str, Any]:
    """Returns the values of 'key=value,key=value'; a value is read as JSON where it is JSON, else as text.

    Args:
        text: the assignments; a comma divides only where a key follows, so that lists may hold commas.
        where: what the text is, for messages.
        dotted: keys may name nested values, as ``train.batch``.

    Raises:
        PeftuError: a piece has no key or no '=', or a key stands twice.
    """
    result: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in re.split(r",(?=\s*[\w.]+=)", text))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise PeftuError(f"{where}: '{part}' is not of the form key=value")
        key = key.strip()
        if "." in key and not dotted:
            raise PeftuError(f"{where}: '{key}' has a dot — write a plain name")
        if key.count(".") > DEEPEST:
            raise PeftuError(f"{where}: '{key[:LONGEST]}…' has {key.count('.')} dots — name one setting")
        if key in result:
            raise PeftuError(f"{where}: '{key}' stands twice — write it once")
        result[key] = _scalar(value.strip(), f"{where}: {key}")
    return result
