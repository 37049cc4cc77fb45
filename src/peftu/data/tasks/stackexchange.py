"""Answers in one's own voice: what people wrote on a site of the Stack Exchange network."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Literal

from peftu.data.markup import plain_text
from peftu.data.reading import meta, read_xml_rows
from peftu.data.task import LeftOut, Row, SourceFile, TaskCard
from peftu.errors import PeftuError

QUESTION, ANSWER = "1", "2"
Key = tuple[str | None, str]  # who answers, what


CARD = TaskCard(
    name="stackexchange",
    version="1",
    title="Answers on a Stack Exchange site",
    description=(
        "Questions (title, body, tags) and what each user answered, HTML turned into text. Kept are users with 20 "
        "answers or more (min_examples=) to questions with at least min_answers= answers; PEFT-U asks for five, which "
        "leaves little of small sites and selects by how others behave, so the default is one. A second answer to the "
        "same question, answers by deleted users and answers to deleted questions are left out; all is counted. Pass "
        "the folder of the site's Posts.xml, unpacked from SITE.stackexchange.com.7z, with --raw."
    ),
    user="A member of the site.",
    kind="text",
    labels=(),
    instruction="What does this member answer to the question?",
    main_metric="perplexity",
    language="en",
    licence="CC-BY-SA (2.5, 3.0 or 4.0, by date)",
    citation="Stack Exchange, Inc. Stack Exchange Data Dump. https://archive.org/details/stackexchange",
    homepage="https://archive.org/details/stackexchange",
    files=(SourceFile(name="Posts.xml"),),
    presets={"reference": {"min_examples": 20, "min_answers": 5, "markup": "html"}},
)


class OneSite:
    """One site's public dump: every answer of its busy users."""

    card: ClassVar[TaskCard] = CARD

    def rows(
        self, raw: Path, min_examples: int = 20, min_answers: int = 1, markup: Literal["text", "html"] = "text"
    ) -> Iterator[Row | LeftOut]:
        """Yields every kept answer in file order; the file is read twice and never held whole."""
        kept, left = _chosen(raw / "Posts.xml", min_examples, min_answers)
        yield from left
        yield from _answers(raw / "Posts.xml", kept, plain_text if markup == "text" else str.strip)


class StackExchange(OneSite):
    """A site named by an option; the name goes into the card."""

    @classmethod
    def variant(cls, site: str, **_: object) -> TaskCard:
        """Returns the card with the site's name in it."""
        return _card_of(site) if site else cls.card

    def rows(
        self,
        raw: Path,
        min_examples: int = 20,
        min_answers: int = 1,
        markup: Literal["text", "html"] = "text",
        site: str = "",
    ) -> Iterator[Row | LeftOut]:
        """Yields every kept answer in file order; the file is read twice and never held whole."""
        yield from super().rows(raw, min_examples, min_answers, markup)


def _chosen(path: Path, min_examples: int, min_answers: int) -> tuple[dict[str, Key], list[LeftOut]]:
    """Returns the posts that are kept answers, and what is left out."""
    first: dict[Key, str] = {}
    questions = set()
    total = 0
    for post in read_xml_rows(path):
        if post["PostTypeId"] == QUESTION:
            questions.add(post["Id"])
        elif post["PostTypeId"] == ANSWER:
            total += 1
            first.setdefault((post.get("OwnerUserId"), post["ParentId"]), post["Id"])
    left = [LeftOut("answers by a user to a question that the user had answered before", total - len(first))]
    answered = Counter(question for _, question in first)
    by_rule: dict[str, Callable[[Key], bool]] = {
        "answers to questions that are not in the file": lambda key: key[1] in questions,
        f"answers to questions with fewer than {min_answers} answers": lambda key: answered[key[1]] >= min_answers,
        "answers by users who are not known": lambda key: key[0] is not None,
    }
    for what, holds in by_rule.items():
        before = len(first)
        first = {key: post for key, post in first.items() if holds(key)}
        left.append(LeftOut(what, before - len(first)))
    given = Counter(user for user, _ in first)
    few = [number for number in given.values() if number < min_examples]
    left.append(LeftOut(f"answers by users with fewer than {min_examples}", sum(few)))
    left.append(LeftOut(f"users with fewer than {min_examples} examples", len(few)))
    return {post: key for key, post in first.items() if given[key[0]] >= min_examples}, left


def _answers(path: Path, kept: dict[str, Key], plain: Callable[[str], str]) -> Iterator[Row | LeftOut]:
    """Yields a row for each kept answer, as soon as its question has been met too."""
    wanted = {question for _, question in kept.values()}
    texts: dict[str, str] = {}
    early: dict[str, list[dict[str, str]]] = {}  # merged questions may stand behind their answers
    for post in read_xml_rows(path):
        if post["Id"] in wanted and post["PostTypeId"] == QUESTION:
            tags = ", ".join(re.findall(r"[^<>|]+", post.get("Tags", "")))
            texts[post["Id"]] = f"{post.get('Title', '')}\n\n{plain(post['Body'])}\n\nTags: {tags}"
            ready = early.pop(post["Id"], [])
        elif post["Id"] in kept:
            ready = [post] if post["ParentId"] in texts else []
            if not ready:
                early.setdefault(post["ParentId"], []).append(post)
        else:
            continue
        for answer in ready:
            yield _row(answer, kept[answer["Id"]], texts[answer["ParentId"]], plain(answer["Body"]))


def _row(answer: dict[str, str], key: Key, question: str, text: str) -> Row | LeftOut:
    user, item = key
    if not text or user is None:
        return LeftOut("answers without a text")
    time = datetime.fromisoformat(answer["CreationDate"]).replace(tzinfo=UTC).timestamp()
    return Row(user, item, question, (text,), time=time, meta=meta(score=int(answer["Score"])))


def _card_of(site: str) -> TaskCard:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", site):
        raise PeftuError(f"stackexchange: site={site!r} — give the name in the site's address, such as workplace")
    return CARD.model_copy(
        update={
            "name": f"stackexchange-{site}",
            "title": f"Answers on {site}.stackexchange.com",
            "user": f"A member of {site}.stackexchange.com.",
            "verified": "data" if site in ("beer", "matheducators", "quantumcomputing") else "format",
        }
    )


def _named(site: str) -> type[OneSite]:
    return type(f"StackExchange{site.capitalize()}", (OneSite,), {"card": _card_of(site)})


Beer = _named("beer")
Interpersonal = _named("interpersonal")
Judaism = _named("judaism")
Matheducators = _named("matheducators")
Parenting = _named("parenting")
Philosophy = _named("philosophy")
Quantumcomputing = _named("quantumcomputing")
Travel = _named("travel")
Workplace = _named("workplace")
Worldbuilding = _named("worldbuilding")
