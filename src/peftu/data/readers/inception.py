"""Projects that INCEpTION exported as UIMA CAS, JSON or XMI: a file for each annotator of each document."""

import io
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from peftu.data.archives import unpack_all
from peftu.data.readers.file import File
from peftu.data.readers.judgements import Judgements, is_answer
from peftu.data.readers.source import Source
from peftu.errors import PeftuError
from peftu.outside import parse_json

MEMBER = re.compile(r"(?:.*/)?annotation/([^/]+)/([^/]+)\.(json|xmi|zip)")
PROJECT, TYPES = "exportedproject.json", "TypeSystem.xml"
NO_ANNOTATOR = re.compile(r"(INITIAL_CAS|CURATION_USER)\d*")
NUMBERED = re.compile(r".+\d{15,}")  # older versions put a number of their own behind every user
NOT_LAYERS = ("uima.", "org.apache.", "de.tudarmstadt.", "org.dkpro.")  # of the tool's own types none is a layer
NOT_FEATURES = ("sofa", "begin", "end")
UNKNOWN = f"is named after nobody that {PROJECT} knows — pass the whole project as it was exported"
AGAIN = "cannot be read — export the project again with the format UIMA CAS JSON"


class Member(NamedTuple):
    """What one annotator made of one document: columns of the whole, and those of each part by where it stands."""

    place: str
    document: str
    user: str
    whole: dict[str, Any]
    parts: dict[tuple[Any, Any], dict[str, Any]]


class Inception:
    """Reads a row a document and annotator by its metadata layers, or a row a span; each feature is a column."""

    name = "inception"
    title = "an INCEpTION project"
    plain = False

    def claims(self, file: File) -> bool:
        """Returns whether it is a folder of documents with a file an annotator, or has a project's description."""
        return file.shape == "folder" and (
            any(map(MEMBER.fullmatch, file.files)) or any(PurePosixPath(name).name == PROJECT for name in file.files)
        )

    def open(self, file: File) -> Source:
        """Returns its rows; what was imported or curated is no annotator's.

        Raises:
            PeftuError: the package that reads them is missing, or the project was exported in another format.
        """
        cassis = cassis_package()
        judgements = Judgements(file.path)
        if not any(map(MEMBER.fullmatch, file.files)):
            raise PeftuError(f"{file.path}: holds no annotation as UIMA CAS — export with the format UIMA CAS JSON")
        documents: list[tuple[str, dict[str, Any]]] = []
        spans: list[tuple[str, dict[str, Any]]] = []
        for member in _members(file, cassis, judgements):
            keys = {"user": member.user, "document": member.document}
            if member.whole:
                documents.append((member.place, keys | member.whole))
            for number, ((begin, end), part) in enumerate(member.parts.items(), 1):
                key = {"document": f"{member.document}:{begin}-{end}"}
                spans.append((f"{member.place}, part {number}", keys | key | part))
        if documents:
            judgements.left_out["annotations of a part of a document"] = len(spans)
        rows = documents or spans
        for place, row in rows:
            judgements.add(place, row)
        questions = dict.fromkeys(column for _, row in rows for column in row if "." in column)
        what = "a row a document" if documents else "a row a marked part"
        roles = {"user": "user", "item": "document", "text": "text"}
        return judgements.source(f"INCEpTION, {what}", roles=roles, questions=tuple(questions))


READER = Inception()


def cassis_package() -> Any:
    """Returns the package; it is an extra."""
    try:
        import cassis
    except ImportError:
        raise PeftuError("INCEpTION's files need the package dkpro-cassis — pip install 'peftu[inception]'") from None
    return cassis


def _members(file: File, cassis: Any, judgements: Judgements) -> Iterator[Member]:
    """Yields what each annotator made of each document."""
    matches = [(match, path) for name, path in file.files.items() if (match := MEMBER.fullmatch(name))]
    states = _states(file)
    types = next((path for name, path in file.files.items() if PurePosixPath(name).name == TYPES), Path(TYPES))
    for number, (match, path) in enumerate(matches, 1):
        document, stem, suffix = match.groups()
        place = f"document file {number}"
        try:
            user, cas = _load(cassis, path, stem, suffix, file.path, types)
            whole, parts = _divided(cas)
        except PeftuError:
            raise
        except Exception:  # noqa: BLE001  (whatever a parser of damaged files raises)
            judgements.wrong(place, AGAIN)
            continue
        if NO_ANNOTATOR.fullmatch(user):
            judgements.left_out["files of no annotator (imported, curated)"] += 1
            continue
        if NUMBERED.fullmatch(user):
            known = [name for of, name in states if of == document and re.fullmatch(re.escape(name) + r"\d*", user)]
            if len(known) != 1:
                judgements.wrong(place, UNKNOWN)
                continue
            user = known[0]
        if states.get((document, user)) == "IGNORE":
            judgements.left_out["documents that an annotator passed over"] += 1
        else:
            yield Member(place, document, user, whole, parts)


def _load(cassis: Any, path: Path, user: str, suffix: str, where: Path, types: Path) -> tuple[str, Any]:
    """Returns the user and the annotations in a file; XMI has its types in another, in a zip archive mostly."""
    if suffix == "json":
        text = path.read_text(encoding="utf-8")
        parse_json(text)
        return user, cassis.load_cas_from_json(text, lenient=True)
    if suffix == "xmi":
        return user, cassis.load_cas_from_xmi(_xml(path), cassis.load_typesystem(_xml(types)), lenient=True)
    with tempfile.TemporaryDirectory(prefix="peftu-") as folder:
        inner = unpack_all(path, Path(folder), where)
        name = next(name for name in inner if name.endswith((".xmi", ".json")))
        member = PurePosixPath(name)
        return _load(cassis, inner[name], member.stem, member.suffix[1:], where, inner.get(TYPES, types))


def _xml(path: Path) -> io.BytesIO:
    """Returns XML that cannot name other files, nor grow when it is read."""
    text = path.read_text(encoding="utf-8")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError
    return io.BytesIO(text.encode())


def _states(file: File) -> dict[tuple[str, str], str]:
    """Returns (document, user) -> state, as the project's description has them; none where there is no description."""
    described = [path for name, path in file.files.items() if PurePosixPath(name).name == PROJECT]
    if not described:
        return {}
    try:
        states = parse_json(described[0].read_bytes())["annotation_documents"]
        return {(str(state["name"]), str(state["user"])): str(state["state"]) for state in states}
    except (OSError, ValueError, TypeError, KeyError):
        raise PeftuError(f"{file.path}: {PROJECT} in it is damaged — export the project again") from None


def _divided(cas: Any) -> tuple[dict[str, Any], dict[tuple[Any, Any], dict[str, Any]]]:
    """Returns what is said of the whole document, and of its parts in their order."""
    whole: dict[str, Any] = {}
    parts: dict[tuple[Any, Any], dict[str, Any]] = {}
    for each in cas.select_all_fs():
        answers = _answers(each)
        place = getattr(each, "begin", None), getattr(each, "end", None)
        if answers and place == (None, None):
            row = whole
            row["text"] = cas.sofa_string
        elif answers:
            row = parts.setdefault(place, {"text": each.get_covered_text()})
        for column, values in answers.items():
            row.setdefault(column, []).extend(values)
    return whole, dict(sorted(parts.items()))


def _answers(each: Any) -> Mapping[str, list[Any]]:
    """Returns 'layer.feature' -> values of an annotation on a layer of the project's own."""
    name = each.type.name
    if name.startswith(NOT_LAYERS):
        return {}
    answers = {}
    for feature in each.type.all_features:
        value = getattr(each, feature.name, None)
        value = getattr(value, "elements", value)  # of an array
        if feature.name not in NOT_FEATURES and value is not None and is_answer(value):
            answers[f"{name.rpartition('.')[2]}.{feature.name}"] = value if isinstance(value, list) else [value]
    return answers
