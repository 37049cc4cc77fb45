"""What requests and answers hold: the shapes that OpenAPI shows, with examples."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from peftu.answers import Kind
from peftu.data.problem import Text
from peftu.outside import is_plain
from peftu.serving.asked import OnMissing
from peftu.serving.limits import Limits
from peftu.serving.problems import RefusedError


def _config(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [example]})


class InputText(BaseModel):
    """A text and what it answers."""

    model_config = ConfigDict(extra="forbid")

    text: StrictStr
    context: StrictStr | None = None


Input = StrictStr | InputText


class PredictRequest(BaseModel):
    """Texts that some users are asked about."""

    model_config = _config(
        {"users": ["103", "247"], "inputs": ["A fine film.", {"text": "No.", "context": "Seen it?"}]}
    )

    users: list[StrictStr] = Field(min_length=1)
    inputs: list[Input] = Field(min_length=1)
    method: StrictStr | None = Field(None, description="As in the run's table; needed where several are served.")
    on_missing: OnMissing = Field("error", description="What becomes of users without a module; the answer says so.")


class LabelAnswer(BaseModel):
    """One user's answer to one text."""

    labels: list[str] = Field(description="One, or those that hold.")
    probabilities: dict[str, float]


class UserAnswers(BaseModel):
    """One user's answers, in the order of the inputs."""

    user: str
    module: str = Field(description="Digest of the module that answered, with its base and prompt.")
    fallback: str | None = Field(description="'global' or 'base' where the user's own module did not answer.")
    answers: list[LabelAnswer]


class PredictReply(BaseModel):
    """Users by inputs."""

    method: str
    seed: int
    labels: list[str]
    results: list[UserAnswers]
    notes: list[str]


class GenerateRequest(BaseModel):
    """Texts that some users write an answer to."""

    model_config = _config({"users": ["103"], "inputs": ["What do you say?"], "temperature": 0.7, "seed": 1})

    users: list[StrictStr] = Field(min_length=1)
    inputs: list[Input] = Field(min_length=1)
    method: StrictStr | None = None
    on_missing: OnMissing = "error"
    max_tokens: StrictInt | None = Field(None, ge=1, description="Of an answer; no more than the method was made for.")
    temperature: StrictFloat | StrictInt = Field(0, ge=0, le=2)
    seed: StrictInt | None = Field(None, description="Of what is drawn; None: the method's, so always the same.")


class UserWritten(BaseModel):
    """One user's free answers, in the order of the inputs."""

    user: str
    module: str
    fallback: str | None
    answers: list[str]


class GenerateReply(BaseModel):
    """Users by inputs."""

    method: str
    seed: int
    results: list[UserWritten]
    notes: list[str]


class RankRequest(BaseModel):
    """One text; the users who are likeliest to give it a label come first."""

    model_config = _config({"input": "A fine film.", "label": "likes", "top": 10})

    input: Input
    label: StrictStr
    users: list[StrictStr] | None = Field(None, min_length=1, description="None: everybody the method knows.")
    top: StrictInt | None = Field(None, ge=1)
    method: StrictStr | None = None
    on_missing: OnMissing = "error"


class Ranked(BaseModel):
    """One user's probability of the label."""

    user: str
    probability: float
    module: str
    fallback: str | None


class RankReply(BaseModel):
    """Users, the likeliest first."""

    method: str
    seed: int
    label: str
    users: int = Field(description="That were asked.")
    mean: dict[str, float] = Field(description="Probability of each label, over all who were asked.")
    ranking: list[Ranked]
    notes: list[str]


class Example(BaseModel):
    """A text and what the user said of it."""

    model_config = ConfigDict(extra="forbid")

    text: StrictStr
    context: StrictStr | None = None
    labels: list[StrictStr] = Field(min_length=1, description="One, those that hold, or a free answer.")


class ExamplesRequest(BaseModel):
    """Labelled texts that are added to those a user is known by; their module is trained on all of them."""

    model_config = _config({"examples": [{"text": "A fine film.", "labels": ["likes"]}]})

    examples: list[Example] = Field(min_length=1)
    method: StrictStr | None = None
    replace: StrictBool = Field(False, description="These are all: earlier ones no longer count.")


class Enrolment(BaseModel):
    """How far an enrolment is."""

    method: str
    state: str = Field(description="queued, running, done, failed or cancelled.")
    error: str | None = None
    seconds: float | None = None


class Method(BaseModel):
    """A method that is served."""

    method: str = Field(description="As in the run's table, and as requests name it.")
    task: str
    kind: Kind = Field(description="single and ordinal: one label a text; multi: those that hold; text: free answers.")
    labels: list[str]
    base: str | None
    personal: bool = Field(description="Whether users have something of their own in it.")
    everyone: str | None = Field(description="The method served here that was trained on everyone, on the same base.")


class MethodsReply(BaseModel):
    """What is served, and what the caller may do with it."""

    methods: list[Method]
    default: str | None = Field(description="Answers where a request names none; None: it has to.")
    scopes: list[str]
    users: list[str] | None = Field(description="Whom alone the token may ask about; None: everybody.")


class UsersReply(BaseModel):
    """The first users by key."""

    users: list[str]
    total: int = Field(description="That the caller may ask about.")


class UserReply(BaseModel):
    """What is known of a user."""

    modules: dict[str, str] = Field(description="Method to digest of what answers for the user.")
    enrolment: Enrolment | None = None


class Receipt(BaseModel):
    """The receipt of a deletion."""

    deleted: dict[str, Any]
    remains: list[str]


class Wrong(BaseModel):
    """What is wrong with a request, as OpenAI's clients read it."""

    message: str = Field(description="What is wrong, and the mend: one line.")
    type: str
    code: int = Field(description="The status.")
    request_id: str
    unknown_users: list[int] = Field([], description="Places in the request of users without a module.")


class Problem(BaseModel):
    """The answer to a request that is refused."""

    error: Wrong


class CompletionRequest(BaseModel):
    """What OpenAI's clients send; what would change the answer and is not known here is refused."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "base:103", "prompt": "What do you say?"}]})

    model: StrictStr
    prompt: StrictStr | Annotated[list[StrictStr], Field(min_length=1)]
    max_tokens: StrictInt | None = Field(None, ge=1)
    temperature: StrictFloat | StrictInt = Field(0, ge=0, le=2)
    seed: StrictInt | None = None
    stream: StrictBool | None = None


class Message(BaseModel):
    """One turn."""

    role: StrictStr
    content: StrictStr


class ChatRequest(BaseModel):
    """What OpenAI's chat clients send: the last message is the text, those before it are its context."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "base:103", "messages": [{"role": "user", "content": "Well?"}]}]}
    )

    model: StrictStr
    messages: list[Message] = Field(min_length=1)
    max_tokens: StrictInt | None = Field(None, ge=1)
    max_completion_tokens: StrictInt | None = Field(None, ge=1)
    temperature: StrictFloat | StrictInt = Field(0, ge=0, le=2)
    seed: StrictInt | None = None
    stream: StrictBool | None = None


def text_of(given: Input | Example, limits: Limits) -> Text:
    """Returns an input as a text.

    Raises:
        RefusedError: it is too long.
    """
    text = Text(given) if isinstance(given, str) else Text(given.text, given.context)
    if len(text.text) + len(text.context or "") > limits.characters:
        raise RefusedError(413, f"text: is over {limits.characters:,} characters — shorten it")
    return text


def check_key(key: str, limits: Limits) -> str:
    """Returns a user's key that can be one.

    Raises:
        RefusedError: it cannot.
    """
    if not key or not is_plain(key):
        raise RefusedError(422, "user: the key is empty or holds a control character — pass a plain one")
    if len(key) > limits.key_characters:
        raise RefusedError(413, f"user: the key is over {limits.key_characters:,} characters — pass a shorter one")
    return key


def check_users(users: list[str], limits: Limits) -> list[str]:
    """Returns the users of a request, each once.

    Raises:
        RefusedError: too many, one twice, or no key.
    """
    if len(users) > limits.users:
        raise RefusedError(413, f"users: are over {limits.users:,} — ask for fewer at once")
    if len(set(users)) < len(users):
        raise RefusedError(422, "users: one stands twice — name each once")
    return [check_key(user, limits) for user in users]


def check_pairs(users: list[str], inputs: Sequence[Input], limits: Limits) -> tuple[list[str], list[Text]]:
    """Returns the users and the texts of a request.

    Raises:
        RefusedError: they are too many, or one of them is no such thing.
    """
    users = check_users(users, limits)
    if len(inputs) > limits.inputs or len(users) * len(inputs) > limits.pairs:
        raise RefusedError(
            413, f"inputs: over {limits.inputs:,}, or over {limits.pairs:,} with users — ask less at once"
        )
    return users, [text_of(given, limits) for given in inputs]
