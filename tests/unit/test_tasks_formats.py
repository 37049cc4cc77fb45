"""Every reader on a small file made in its publisher's layout; no line of any real file is here."""

import gzip
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import polars as pl
import pytest

from peftu.data.check import check_card
from peftu.data.load import card_of, read_table, task_options
from peftu.data.reading import AGAIN, ANEW
from peftu.data.table import UserTable
from peftu.data.task import tasks
from peftu.data.tasks.goemotions import FINE
from peftu.errors import PeftuError
from peftu.metrics import metrics

GAB = "ID\tAnnotator\tText\tHate\tHD\tCV\n9\t4\ta post\t1\t1\t0\n9\t5\ta post\t0\t0\t0\n"
GAB += "9\t4\ta post\t0\t0\t0\n8\t4\tb\t0\t0\t0\n"
UCC = (
    "_unit_id,comment,_trust,_worker_id,antagonize,condescending,dismissive,generalisation,generalisation_unfair,"
    "healthy,hostile,sarcastic\n"
    '5,"one, two",0.9,77,0,0,0,0,0,1,0,0\n5,"one, two",0.8,78,1,0,0,0,0,0,1,0\n6,three,0.8,78,0,0,0,0,0,,0,0\n'
)
WIKI = (
    "rev_id\tcomment\tyear\tlogged_in\tns\tsample\tsplit\n"
    "37.0\tNEWLINE_TOKENHi.TAB_TOKENThereNEWLINE_TOKENyou\t2002\tFalse\tarticle\trandom\ttrain\n"
    "38.0\tNEWLINE_TOKEN\t2002\tFalse\tarticle\trandom\ttrain\n"
)
WIKI_SAID = "rev_id\tworker_id\taggression\taggression_score\n37.0\t1\t0.0\t1.0\n37.0\t2\t1.0\t-2.0\n"
WIKI_SAID += "38.0\t1\t0.0\t0.0\n37.0\t2\t1.0\t-1.0\n"
STUD = "text_id,annotator_id,joy,trust,anticipation,surprise,fear,sadness,disgust,anger,valence,arousal\n"
STUD += (
    "0,3,1.0,0.0,2.0,0.0,0.0,0.0,0.0,0.0,-2.0,1.0\n0,4,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,-1.0,0.0\n7,4"
    + ",1.0" * 10
    + "\n"
)
CONV = "example_no,annotator_id,conv_id,prev_agent,prev_user,agent,user,bot," + ",".join(
    f"is_abuse.{step}" for step in (1, 0, -1, -2, -3)
)
CHECK = ",functionality,case_id,templ_id,test_case,label_gold," + ",".join(f"label_{n}" for n in range(1, 11))
COMMENTS = "timestamp,datetime,comment-id,author-id,agrees,disagrees,moderated,comment-body\n"
COMMENTS += '1,x,0,5,1,1,1,"Dogs, too"\n1,x,1,5,1,1,-1,Spam\n1,x,12,5,1,1,0,More trees\n1,x,13,5,1,1,1,\n'
VOTES = "participant,group-id,n-comments,n-votes,n-agree,n-disagree,0,1,12,13\n0,0,1,3,1,1,1,-1,0,1\n4,,0,1,0,1,,,-1,\n"


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., UserTable]:
    """Returns a function: writes files into a raw folder and reads a task's table from them."""

    def table(name: str, files: dict[str, str | bytes], **options: Any) -> UserTable:
        for file, content in files.items():
            (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        cls = tasks.get(name)
        complete = task_options(cls, options)
        return read_table(cls, tmp_path, complete, {file.name: "" for file in cls.card.files})

    return table


def rows(table: UserTable) -> set[tuple[str, str, str]]:
    frame = table.frame.select("user_id", "item_id", pl.col("target").list.join("+"))
    return {(user, item, target) for user, item, target in frame.iter_rows()}


def archive(member: str, content: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        about = tarfile.TarInfo(member)
        about.size = len(content.encode())
        tar.addfile(about, io.BytesIO(content.encode()))
    return packed.getvalue()


def lines(*values: dict[str, Any]) -> bytes:
    return gzip.compress("\n".join(map(json.dumps, values)).encode())


def test_hatexplain(read: Callable[..., UserTable]) -> None:
    said = [{"label": "normal", "annotator_id": 1, "target": ["None"]}, {"label": "offensive", "annotator_id": 2}]
    data = {"7_gab": {"post_id": "7_gab", "annotators": said, "rationales": [], "post_tokens": ["hello", "you", "!"]}}
    files = {"dataset.json": json.dumps(data), "post_id_divisions.json": '{"train": [], "val": ["7_gab"], "test": []}'}
    table = read("hatexplain", files)
    assert rows(table) == {("1", "7_gab", "normal"), ("2", "7_gab", "offensive")}
    assert table.frame["text"][0] == "hello you !"
    assert table.frame["meta"].unique().to_list() == ['{"split": "val"}']


def test_gabhate(read: Callable[..., UserTable]) -> None:
    table = read("gabhate", {"GabHateCorpus_annotations.tsv": GAB})
    assert rows(table) == {("4", "9", "Hateful"), ("5", "9", "Non-hateful"), ("4", "8", "Non-hateful")}
    assert table.notes == {ANEW["first"]: 1}
    assert ("4", "9", "Non-hateful") in rows(read("gabhate", {}, preset="reference"))


def test_measuringhatespeech(read: Callable[..., UserTable]) -> None:
    frame = pl.DataFrame(
        {
            "comment_id": pl.Series([1, 1, 2], dtype=pl.Int32),
            "annotator_id": pl.Series([10, 11, 11], dtype=pl.Int32),
            "hatespeech": [0.0, 2.0, None],
            "text": ["a", "a", "b"],
            "annotator_gender": ["women", None, None],
            "annotator_age": [30.0, None, None],
            "annotator_ideology": ["neutral", None, None],
        }
    )
    file = io.BytesIO()
    frame.write_parquet(file)
    table = read("measuringhatespeech", {"measuring-hate-speech.parquet": file.getvalue()})
    assert rows(table) == {("10", "1", "0"), ("11", "1", "2")}
    assert table.frame["meta"].to_list() == ['{"gender": "women", "age": 30.0, "ideology": "neutral"}', None]
    assert table.notes == {"judgements without an answer": 1}


def test_unhealthyconversations(read: Callable[..., UserTable]) -> None:
    table = read("unhealthyconversations", {"unhealthy_full.csv": UCC})
    assert rows(table) == {("77", "5", "healthy"), ("78", "5", "unhealthy")}
    assert table.notes == {"judgements without an answer": 1}


def test_wikidetox(read: Callable[..., UserTable]) -> None:
    files = {"aggression_annotated_comments.tsv": WIKI, "aggression_annotations.tsv": WIKI_SAID}
    table = read("wikidetox", files)
    assert rows(table) == {("1", "37", "Normal"), ("2", "37", "Aggressive")}
    assert table.frame["text"][0] == "Hi. There\nyou"
    assert table.notes == {"judgements of comments without a text": 1, AGAIN: 1}


def test_goemotions(read: Callable[..., UserTable]) -> None:
    names = (*FINE, "neutral")
    header = "text,id,author,subreddit,link_id,parent_id,created_utc,rater_id,example_very_unclear," + ",".join(names)

    def line(rater: int, unclear: bool, *given: str) -> str:
        return f"Ha,c1,,s,l,p,1.0,{rater},{unclear}," + ",".join("01"[name in given] for name in names)

    content = "\n".join([header, line(1, False, "love", "joy"), line(2, True), line(3, False, "neutral")]) + "\n"
    table = read("goemotions", {"goemotions_1.csv": content})
    assert rows(table) == {("1", "c1", "joy"), ("3", "c1", "neutral")}
    assert list(table.notes.values()) == [1]
    fine = read("goemotions", {"goemotions_2.csv": content}, emotions="all", unclear="keep", neutral="drop")
    assert rows(fine) == {("1", "c1", "joy+love"), ("2", "c1", "unclear")}
    assert fine.notes[AGAIN] == 2  # the same rows in a second file
    assert len(fine.card.labels) == 28


def test_studemo(read: Callable[..., UserTable]) -> None:
    files = {"annotation_data.csv": STUD, "text_data.csv": 'text_id,text\n0,"Good, bad."\n'}
    assert rows(read("studemo", files)) == {("3", "0", "joy+anticipation"), ("4", "0", "none")}
    table = read("studemo", {}, preset="reference")
    assert rows(table) == {("3", "0", "joy+anticipation+arousal")}
    assert table.notes == {"judgements without an emotion": 1, "judgements of reviews without a text": 1}


DISCOURSE = {
    "qa_index": "H_000",
    "q_speaker_detail": "politician: A",
    "q_text": "Is it so?",
    "r_speaker_detail": "witness: B ",
    "r_text": "It may be.",
    "gold_coarse_labels": "('shift-dodge', 'answer')",
    "gold_workers": "('w1', 'w2')",
    "gold_sentiments": "('veryNegative', 'neutral')",
    "gold_q_sentiments": "('positive', 'somewhatPositive')",
}


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("response", "shift-dodge", "answer"),
        ("question-sentiment", "positive", "somewhat-positive"),
        ("response-sentiment", "very-negative", "neutral"),
    ],
)
def test_subjectivediscourse(read: Callable[..., UserTable], name: str, first: str, second: str) -> None:
    member = "with_features_annotated_questions_responses_gold.tsv"
    content = "\t".join(["", *DISCOURSE]) + "\n" + "\t".join(["6", *DISCOURSE.values()]) + "\n"
    table = read(f"subjectivediscourse-{name}", {"gold_full_data.tar.gz": archive(member, content)})
    assert rows(table) == {("w1", "H_000", first), ("w2", "H_000", second)}
    assert table.frame.select("context", "text").row(0) == ("politician: A: Is it so?", "witness: B: It may be.")


def test_subjectivediscourse_in_a_wrong_archive(read: Callable[..., UserTable]) -> None:
    name = "subjectivediscourse-response"
    member = "with_features_annotated_questions_responses_gold.tsv"
    with pytest.raises(PeftuError, match=r"holds no plain file .with_features.* — check that it is the right archive"):
        read(name, {"gold_full_data.tar.gz": archive("other.tsv", "")})
    with pytest.raises(PeftuError, match="is truncated or damaged — get it again"):
        read(name, {"gold_full_data.tar.gz": archive(member, "x" * 5000)[:60]})
    header = "\t".join(DISCOURSE)
    short = DISCOURSE | {"gold_workers": "('w1',)"}
    for cells, said in (
        (short, "row 1: 1 workers but 2 gold_coarse_labels"),
        (DISCOURSE | {"gold_workers": "?"}, "row 1: gold_workers: holds no Python"),
    ):
        with pytest.raises(PeftuError, match=said):
            read(name, {"gold_full_data.tar.gz": archive(member, header + "\n" + "\t".join(cells.values()) + "\n")})


def test_cockamamie(read: Callable[..., UserTable]) -> None:
    votes = [{"wobble": {"yes_votes": ["4"], "no_votes": ["7", "8"]}}, {"ledger": {"yes_votes": [], "no_votes": ["4"]}}]
    table = read("cockamamie", {"cockamamie.json": json.dumps({"word_ratings": {"votes": votes}})})
    said = {("4", "wobble", "yes"), ("7", "wobble", "no"), ("8", "wobble", "no"), ("4", "ledger", "no")}
    assert rows(table) == said


def test_convabuse(read: Callable[..., UserTable]) -> None:
    content = [CONV, "7,A1,c,Hi,yo,What?,go,ELIZA,1,0,0,0,0", "9,A2,d,Hi,yo,What?,go,ELIZA,0,0,0,1,0"]
    content += ["11,A1,d,Hi,yo,What?,go,ELIZA,0,1,0,0,0", "12,A1,d,Hi,no,What?,go,ELIZA,0,0,0,0,1"]
    table = read("convabuse", {"ConvAbuseEMNLPfull.csv": "\n".join(content) + "\n"})
    assert rows(table) == {("A1", "7", "1"), ("A2", "7", "-2"), ("A1", "12", "-3")}
    assert table.notes == {ANEW["first"]: 1}
    assert set(table.frame["context"]) == {"Agent: Hi\nUser: yo\nAgent: What?", "Agent: Hi\nUser: no\nAgent: What?"}


def test_hatecheck(read: Callable[..., UserTable]) -> None:
    content = f"{CHECK}\n0,made_up,1,1,A sentence.,hateful,hateful,,non-hateful,,,,,,,hateful\n"
    table = read("hatecheck", {"all_annotations.csv": content})
    assert rows(table) == {("1", "1", "hateful"), ("3", "1", "non-hateful"), ("10", "1", "hateful")}


def test_polis(read: Callable[..., UserTable]) -> None:
    table = read("polis", {"comments.csv": COMMENTS, "participants-votes.csv": VOTES})
    assert rows(table) == {("0", "0", "agree"), ("0", "12", "pass"), ("4", "12", "disagree")}
    assert set(table.notes.values()) == {1}
    assert len(table.notes) == 2
    assert ("0", "1", "disagree") in rows(read("polis", {}, moderated="keep"))


def test_multipico(read: Callable[..., UserTable]) -> None:
    def item(lang: str, **said: str) -> dict[str, Any]:
        about = {"source": "reddit", "level": 1.0, "language_variety": "us"}
        return {"text": {"post": "p", "reply": "r"}, "annotations": said, "lang": lang, "other_info": about}

    parts = {
        "train": {"1": item("en", Ann0="1")},
        "dev": {"2": item("it", Ann1="0")},
        "test": {"3": item("en", Ann1="1")},
    }
    files = {f"MP_{part}.json": json.dumps(items) for part, items in parts.items()}
    people = {"0": {"Age": 20.0, "Gender": "Female", "Nationality": "DATA_EXPIRED"}}
    files["MP_annotators_meta.json"] = json.dumps(people)
    table = read("multipico", files)
    assert rows(table) == {("Ann0", "1", "Ironic"), ("Ann1", "2", "Non-ironic"), ("Ann1", "3", "Ironic")}
    found = [json.loads(text) for text in table.frame["meta"]]
    assert [known["split"] for known in found] == ["train", "val", "test"]
    assert found[0] | {"age": 20.0, "gender": "Female"} == found[0]
    assert "nationality" not in found[0]
    assert set(read("multipico", {}, language="en").frame["item_id"]) == {"1", "3"}


def posts(*given: dict[str, str]) -> bytes:
    start = {"CreationDate": "2020-01-02T00:00:00.500", "Score": "3", "Body": "<p>Some &amp; more</p>\n<p>Then.</p>"}
    rows = (" ".join(f"{name}={quoteattr(value)}" for name, value in {**start, **post}.items()) for post in given)
    return (
        "\ufeff<?xml version='1.0' encoding='utf-8'?>\n<posts>" + "".join(f"<row {row} />" for row in rows) + "</posts>"
    ).encode()


def question(number: int) -> dict[str, str]:
    return {"Id": str(number), "PostTypeId": "1", "Title": f"Title {number}", "Tags": "<a-b><c>"}


def answer(number: int, parent: int, user: str | None) -> dict[str, str]:
    owner = {"OwnerUserId": user} if user else {}
    return {"Id": str(number), "PostTypeId": "2", "ParentId": str(parent), **owner}


def test_stackexchange(read: Callable[..., UserTable]) -> None:
    file = posts(
        answer(20, 1, "7"),  # before its question
        question(1),
        {"Id": "3", "PostTypeId": "5"},
        question(2),
        answer(21, 2, "7"),
        answer(22, 2, "7"),  # again
        answer(23, 2, None),
        answer(24, 2, "8"),
        answer(25, 99, "7"),
    )
    table = read("stackexchange-travel", {"Posts.xml": file}, min_examples=2)
    assert rows(table) == {("7", "1", "Some & more\n\nThen."), ("7", "2", "Some & more\n\nThen.")}
    assert table.frame["text"][0] == "Title 1\n\nSome & more\n\nThen.\n\nTags: a-b, c"
    assert table.frame["time"][0] == 1577923200.5
    assert table.notes == {
        "answers by a user to a question that the user had answered before": 1,
        "answers to questions that are not in the file": 1,
        "answers by users who are not known": 1,
        "answers by users with fewer than 2": 1,
        "users with fewer than 2 examples": 1,
    }
    few = read("stackexchange", {}, min_examples=1, min_answers=3, markup="html", site="travel")
    assert set(few.frame["item_id"]) == {"2"}
    assert few.frame["target"][0].to_list() == ["<p>Some &amp; more</p>\n<p>Then.</p>"]
    assert few.card.name == "stackexchange-travel"
    with pytest.raises(PeftuError, match=r"site='\.\./x' — give the name in the site's address"):
        read("stackexchange", {}, site="../x")
    with pytest.raises(PeftuError, match=r"Posts\.xml: line 2: is no well-formed XML"):
        read("stackexchange-travel", {"Posts.xml": file[:300]})


def test_goodreads(read: Callable[..., UserTable]) -> None:
    def review(user: str, book: str, text: str = "Fine. (view spoiler)[He dies. (hide spoiler)]") -> dict[str, Any]:
        date = "Fri Aug 25 13:55:02 -0700 2017"
        return {"user_id": user, "book_id": book, "rating": 4, "review_text": text, "date_added": date}

    books = [
        {"book_id": str(n), "title": f"T{n}", "authors": [{"author_id": "5"}], "description": d}
        for n, d in ((1, "About."), (2, ""), (3, "More."))
    ]
    reviews = [review("u", "1"), review("u", "2"), review("u", "3", " "), review("u", "1", "Again"), review("v", "1")]
    files = {
        "goodreads_reviews_spoiler_raw.json.gz": lines(*reviews),
        "goodreads_books.json.gz": lines(*books),
        "goodreads_book_authors.json.gz": lines({"author_id": "5", "name": "Ann Author"}),
    }
    table = read("goodreads", files, min_examples=2)
    assert rows(table) == {("u", "1", "Fine. He dies.")}
    assert table.frame["text"].to_list() == ['"T1" by Ann Author\n\nAbout.']
    assert table.frame["time"].to_list() == [1503694502.0]
    assert list(table.notes.values()) == [1, 1, 1, 1, 1]
    with pytest.raises(PeftuError, match="nothing is left"):
        read("goodreads", {})
    with pytest.raises(PeftuError, match="line 2: is no JSON"):
        read("goodreads", {"goodreads_reviews_spoiler_raw.json.gz": gzip.compress(b'{"user_id": 1}\n{"us')})
    with pytest.raises(PeftuError, match="is truncated or damaged — get it again"):
        read("goodreads", {"goodreads_reviews_spoiler_raw.json.gz": lines(*reviews)[:-9]})


def cards() -> Iterator[Any]:
    for name in filter(tasks.is_own, tasks.names()):
        cls = tasks.get(name)
        for preset in (None, *cls.card.presets):
            options = task_options(cls, {"preset": preset} if preset else {})
            yield pytest.param(name, card_of(cls, options), id=f"{name}-{preset}")


@pytest.mark.parametrize(("name", "card"), list(cards()))
def test_every_card_is_whole(name: str, card: Any) -> None:
    check_card(card)
    assert card.name == name
    assert card.main_metric == "perplexity" if card.kind == "text" else card.kind in metrics.get(card.main_metric).kinds
    assert card.instruction.endswith((".", "?"))
    asked = card.instruction.lower()
    if card.kind in ("single", "ordinal"):
        first, last = card.verbalisations[0].lower(), card.verbalisations[-1].lower()
        assert first in asked
        assert last in asked
    assert not any(file.sha256 and card.verified == "format" for file in card.files)


def test_the_benchmark_s_tasks_have_a_reference_preset() -> None:
    beyond = {"convabuse", "hatecheck", "movielens", "multipico", "polis"}
    assert {name for name in tasks.names() if not tasks.get(name).card.presets} == beyond


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("cockamamie", {"cockamamie.json": "{}"}),
        ("cockamamie", {"cockamamie.json": "[]"}),
        ("cockamamie", {"cockamamie.json": "null"}),
        ("hatexplain", {"dataset.json": '{"a": 1}', "post_id_divisions.json": "{}"}),
        ("hatexplain", {"dataset.json": "{}", "post_id_divisions.json": "[1]"}),
        ("multipico", {"MP_train.json": '{"1": {}}', "MP_dev.json": "{}", "MP_test.json": "{}"}),
        ("studemo", {"text_data.csv": "text_id,text\n0,x\n", "annotation_data.csv": STUD + "0,3" + "," * 10 + "\n"}),
        ("stackexchange", {"Posts.xml": '<posts><row Id="1"/></posts>'}),
    ],
)
def test_files_of_another_layout_are_told_in_one_line(
    read: Callable[..., UserTable], name: str, files: dict[str, str | bytes]
) -> None:
    with pytest.raises(PeftuError) as caught:
        read(name, files)
    said = str(caught.value)
    assert re.search(r"not laid out as the publisher does \(\w+Error: .*\) — get it again from https://", said)
    assert said.startswith(f"{name}: {tasks.get(name).card.files[0].name}")
    assert "\n" not in said


@pytest.mark.parametrize("cut", ["", "<posts>", '<posts>\n  <row Id="1" PostTypeId="1" Bod', "<posts><row/></posts"])
def test_a_broken_tail_of_xml_says_what_to_do(read: Callable[..., UserTable], cut: str) -> None:
    with pytest.raises(PeftuError) as caught:
        read("stackexchange", {"Posts.xml": cut})
    assert "get it again" in str(caught.value)
    assert "\n" not in str(caught.value)
