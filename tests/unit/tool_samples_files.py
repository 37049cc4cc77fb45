"""Samples of tools that export a file for each user, or tables: doccano, Potato."""

import json

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
            ]
        },
        judged((ANN, RAIN, "low"), (BEN, RAIN, "high")),
        {"without an answer": 1, "marked parts": 1},
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
                _STATE: {"i1": {"mood": {"high": True}}, "i2": []},
            },
        },
        judged((ANN, RAIN, "low"), (ANN, SUN, "high"), (BEN, RAIN, "high")),
        {"without an answer": 1, "marked parts": 1},
    ),
}
