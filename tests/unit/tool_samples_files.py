"""Samples of tools that export a file for each user, or tables: doccano, Potato, INCEpTION."""

import io
import json
import zipfile
from typing import Any

from cassis import Cas, TypeSystem

from unit.tool_samples import ANN, BEN, CYD, RAIN, SUN, Sample, judged

_DOCCANO = {
    f"{ANN}.jsonl": [
        {"id": 1, "text": RAIN, "label": ["low"], "Comments": []},
        {"id": 2, "text": SUN, "label": ["high"], "Comments": ["sure"]},
    ],
    f"{BEN}.jsonl": [
        {"id": 1, "text": RAIN, "label": ["high"], "Comments": []},
        {"id": 2, "text": SUN, "label": [], "Comments": []},
    ],
    f"{CYD}.jsonl": b"\n",
}
_DOCCANO_JUDGED = judged((ANN, RAIN, "low"), (ANN, SUN, "high"), (BEN, RAIN, "high"))

DOCCANO = {
    "doccano zip": Sample("doccano", _DOCCANO, _DOCCANO_JUDGED, {"no label": 1}, zipped=True),
    "doccano folder": Sample(
        "doccano", {f"dump/{name}": rows for name, rows in _DOCCANO.items()}, _DOCCANO_JUDGED, {"no label": 1}
    ),
    "doccano CSV": Sample(
        "doccano",
        {
            f"{ANN}.csv": [{"id": 1, "text": RAIN, "label": "low#wet", "Comments": ""}],
            f"{BEN}.csv": [{"id": 1, "text": RAIN, "label": "low", "Comments": "x"}],
        },
        judged((ANN, RAIN, ["low", "wet"]), (BEN, RAIN, ["low"])),
        zipped=True,
        kind="multi",
    ),
    "doccano one user": Sample(
        "doccano",
        {f"{ANN}.jsonl": _DOCCANO[f"{ANN}.jsonl"]},
        judged((ANN, RAIN, "low"), (ANN, SUN, "high")),
        zipped=True,
    ),
}


_STATE = "instance_id_to_label_to_value"

POTATO = {
    "potato 1 TSV": Sample(
        "potato",
        {
            "annotated_instances.tsv": [
                {
                    "user": ANN,
                    "instance_id": "i1",
                    "displayed_text": RAIN,
                    "mood:::low": "mood:::low",
                    "mood:::high": "",
                    "span_annotation:::x": "[]",
                },
                {
                    "user": BEN,
                    "instance_id": "i1",
                    "displayed_text": RAIN,
                    "mood:::low": "",
                    "mood:::high": "mood:::high",
                    "span_annotation:::x": "[{'start': 0}]",
                },
                {
                    "user": BEN,
                    "instance_id": "i2",
                    "displayed_text": SUN,
                    "mood:::low": "",
                    "mood:::high": "",
                    "span_annotation:::x": "[]",
                },
                {"user": BEN, "instance_id": "consent.html", "displayed_text": "consent", "mood:::low": ""},
            ]
        },
        judged((ANN, RAIN, "low"), (BEN, RAIN, "high")),
        {"without an answer": 1, "marked parts": 1, "pages of a survey": 1},
    ),
    "potato 1 JSONL": Sample(
        "potato",
        {
            "annotated_instances.jsonl": [
                {
                    "user_id": ANN,
                    "instance_id": "i1",
                    "displayed_text": RAIN,
                    "label_annotations": {"fit": {"scale_4": "4"}, "why": {"text_box": "so it is"}},
                    "span_annotations": [],
                    "behavioral_data": {},
                },
                {
                    "user_id": BEN,
                    "instance_id": "i1",
                    "displayed_text": RAIN,
                    "label_annotations": {"fit": {"scale_2": "2"}},
                    "span_annotations": [],
                    "behavioral_data": {},
                },
            ]
        },
        judged((ANN, RAIN, "4"), (BEN, RAIN, "2")),
        flags=("--label", "fit"),
    ),
    "potato 2 task folder": Sample(
        "potato",
        {
            "task/config.yaml": "item_properties:\n  id_key: id\n  text_key: text\ndata_files: [data/items.json]\n",
            "task/data/items.json": "".join(
                json.dumps({"id": key, "text": text}) + "\n" for key, text in (("i1", RAIN), ("i2", SUN))
            ),
            f"task/annotation_output/{ANN}/user_state.json": {
                "user_id": ANN,
                "instance_id_ordering": ["i1", "i2"],
                _STATE: {
                    "i1": [[{"schema": "mood", "name": "low"}, "true"]],
                    "i2": [[{"schema": "mood", "name": "high"}, "true"]],
                },
                "instance_id_to_span_to_value": {"i1": [], "i2": [[{"schema": "s"}, "x"]]},
            },
            f"task/annotation_output/{BEN}/user_state.json": {
                "user_id": BEN,
                _STATE: {"i1": {"mood": {"labels": {"high": True}}}, "i2": []},
            },
        },
        judged((ANN, RAIN, "low"), (ANN, SUN, "high"), (BEN, RAIN, "high")),
        {"without an answer": 1, "marked parts": 1},
    ),
}


def _types() -> TypeSystem:
    types = TypeSystem()
    verdict = types.create_type("custom.Verdict", supertypeName="uima.cas.AnnotationBase")
    types.create_feature(verdict, "mood", "uima.cas.String")
    span = types.create_type("webanno.custom.Cause")
    types.create_feature(span, "kind", "uima.cas.String")
    types.create_feature(span, "signs", "uima.cas.StringArray")
    return types


def _cas(text: str, mood: str | None = None, *spans: tuple[int, int, str, list[str]]) -> Cas:
    """Returns a document with a verdict on all of it, and marked parts: begin, end, kind, signs."""
    cas = Cas(_types())
    cas.sofa_string, cas.sofa_mime = text, "text/plain"
    if mood:
        cas.add(cas.typesystem.get_type("custom.Verdict")(mood=mood))
    for begin, end, kind, signs in spans:
        array = cas.typesystem.get_type("uima.cas.StringArray")(elements=signs)
        cas.add(cas.typesystem.get_type("webanno.custom.Cause")(begin=begin, end=end, kind=kind, signs=array))
    return cas


def _json(*given: Any) -> dict[str, Any]:
    return json.loads(_cas(*given).to_json())


def _xmi(user: str, *given: Any) -> bytes:
    """Returns the archive in which INCEpTION puts XMI and its types."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{user}.xmi", _cas(*given).to_xmi())
        archive.writestr("TypeSystem.xml", _types().to_xml())
    return buffer.getvalue()


INCEPTION = {
    "inception JSON": Sample(
        "inception",
        {
            "exportedproject.json": {
                "name": "p",
                "annotation_documents": [
                    {"name": "a.txt", "user": ANN, "state": "FINISHED"},
                    {"name": "b.txt", "user": BEN, "state": "IGNORE"},
                ],
            },
            f"annotation/a.txt/{ANN}.json": _json(RAIN, "low", (0, 4, "wet", [])),
            f"annotation/a.txt/{BEN}.json": _json(RAIN, "high"),
            "annotation/a.txt/INITIAL_CAS.json": _json(RAIN),
            f"annotation/b.txt/{ANN}.json": _json(SUN, "high"),
            f"annotation/b.txt/{BEN}.json": _json(SUN, "high"),
            "annotation/b.txt/CURATION_USER.json": _json(SUN, "high"),
            "source/a.txt": RAIN,
        },
        judged((ANN, RAIN, "low"), (BEN, RAIN, "high"), (ANN, SUN, "high")),
        {"no annotator": 2, "passed over": 1, "part of a document": 1},
        zipped=True,
    ),
    "inception XMI": Sample(
        "inception",
        {
            "dump/annotation/a.txt/webanno3259911804369659129export.zip": _xmi(ANN, RAIN, "low"),
            "dump/annotation/a.txt/webanno4259911804369659129export.zip": _xmi(BEN, RAIN, "high"),
            "dump/TypeSystem.xml": _types().to_xml().encode(),
            f"dump/annotation/b.txt/{ANN}.xmi": _cas(SUN, "high").to_xmi().encode(),
            "dump/annotation/a.txt/webanno5259911804369659129export.zip": _xmi("CURATION_USER", RAIN, "high"),
        },
        judged((ANN, RAIN, "low"), (BEN, RAIN, "high"), (ANN, SUN, "high")),
        {"no annotator": 1},
    ),
    "inception spans": Sample(
        "inception",
        {
            "exportedproject.json": {
                "annotation_documents": [
                    {"name": "a.txt", "user": ANN, "state": "FINISHED"},
                    {"name": "a.txt", "user": BEN, "state": "IN_PROGRESS"},
                ]
            },
            f"annotation/a.txt/{ANN}16724183253005124917.json": _json(
                RAIN, None, (0, 4, "wet", ["drops", "pools"]), (5, 10, "dry", [])
            ),
            f"annotation/a.txt/{BEN}2672418325300512491.json": _json(RAIN, None, (0, 4, "dry", ["dust"])),
        },
        judged((ANN, RAIN[:4], "wet"), (ANN, RAIN[5:10], "dry"), (BEN, RAIN[:4], "dry")),
        flags=("--label", "Cause.kind"),
        zipped=True,
    ),
}
