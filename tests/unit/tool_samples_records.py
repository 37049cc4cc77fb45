"""Samples of tools that export records: Label Studio, Argilla, Prodigy, nested JSON."""

from typing import Any

from unit.tool_samples import ANN, BEN, CYD, FOG, RAIN, SUN, Sample, judged


def _ls(user: Any, *results: tuple[str, str, Any], **more: Any) -> dict[str, Any]:
    key = {"textarea": "text", "pairwise": "selected"}
    return {
        "id": 31,
        "completed_by": user,
        "result": [
            {"id": "r1", "from_name": name, "to_name": "t", "type": kind, "value": {key.get(kind, kind): value}}
            for name, kind, value in results
        ],
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2024-03-09T22:16:08.728353Z",
        "updated_at": "2024-03-09T22:16:08.728378Z",
        "lead_time": 4.2,
        **more,
    }


def _mood(label: str) -> tuple[str, str, list[str]]:
    return ("mood", "choices", [label])


LABEL_STUDIO = {
    "label-studio JSON": Sample(
        "label-studio",
        {
            "project-1.json": [
                {
                    "id": 1,
                    "data": {"text": RAIN},
                    "annotations": [
                        _ls(7781, _mood("low")),
                        _ls({"id": 7782, "email": "b@example.org"}, _mood("high")),
                    ],
                    "drafts": [],
                    "predictions": [{"model_version": "m", "result": []}],
                },
                {
                    "id": 2,
                    "data": {"text": SUN},
                    "annotations": [_ls(7781, _mood("high")), _ls(7782, _mood("low"), was_cancelled=True)],
                    "predictions": [],
                },
            ]
        },
        judged(("7781", RAIN, "low"), ("7782", RAIN, "high"), ("7781", SUN, "high")),
        {"cancelled": 1, "predictions": 1},
    ),
    "label-studio completions": Sample(
        "label-studio",
        {
            "old.json": [
                {
                    "id": 4,
                    "data": {"t": RAIN},
                    "completions": [_ls(1, ("stars", "rating", 2)), _ls(2, ("stars", "rating", 5))],
                },
                {
                    "id": 5,
                    "data": {"t": SUN},
                    "completions": [_ls(1, ("stars", "rating", 4)), {"result": [], "skipped": True}],
                },
            ]
        },
        judged(("1", RAIN, "2"), ("2", RAIN, "5"), ("1", SUN, "4")),
        {"cancelled": 1},
        kind="ordinal",
    ),
    "label-studio several questions": Sample(
        "label-studio",
        {
            "two.json": [
                {
                    "id": 1,
                    "data": {"text": RAIN, "id": "x9"},
                    "annotations": [
                        _ls(1, ("tags", "choices", ["wet", "cold"]), ("why", "textarea", ["it pours"])),
                        _ls(2, ("tags", "choices", ["wet"]), ("kind", "taxonomy", [["weather", "rain"]])),
                        _ls(3, ("tags", "choices", ["cold"])) | {"ground_truth": True},
                    ],
                }
            ]
        },
        judged(("1", RAIN, ["wet", "cold"]), ("2", RAIN, ["wet"]), ("3", RAIN, ["cold"])),
        flags=("--label", "tags"),
        kind="multi",
    ),
    "label-studio JSON_MIN": Sample(
        "label-studio",
        {
            "min.json": [
                {
                    "id": 1,
                    "text": RAIN,
                    "mood": "low",
                    "annotator": 1,
                    "annotation_id": 3,
                    "created_at": "2024-03-09T22:16:08Z",
                    "updated_at": "2024-03-09T22:16:08Z",
                    "lead_time": 2.5,
                },
                {
                    "id": 1,
                    "text": RAIN,
                    "mood": "high",
                    "annotator": 2,
                    "annotation_id": 4,
                    "created_at": "2024-03-09T22:16:08Z",
                    "updated_at": "2024-03-09T22:16:08Z",
                    "lead_time": 2.5,
                },
            ]
        },
        judged(("1", RAIN, "low"), ("2", RAIN, "high")),
    ),
    "label-studio CSV": Sample(
        "label-studio",
        {
            "out.csv": [
                {
                    "annotation_id": 3,
                    "annotator": "1",
                    "created_at": "2024-03-09T22:16:08Z",
                    "feel": '{"choices":["low","wet"]}',
                    "id": 1,
                    "lead_time": 2.5,
                    "text": RAIN,
                    "updated_at": "2024-03-09T22:16:08Z",
                    "was_cancelled": "False",
                },
                {
                    "annotation_id": 4,
                    "annotator": "2",
                    "created_at": "2024-03-09T22:16:08Z",
                    "feel": "high",
                    "id": 1,
                    "lead_time": 2.5,
                    "text": RAIN,
                    "updated_at": "2024-03-09T22:16:08Z",
                    "was_cancelled": "False",
                },
                {
                    "annotation_id": 5,
                    "annotator": "1",
                    "created_at": "2024-03-09T22:16:08Z",
                    "feel": "",
                    "id": 2,
                    "lead_time": 2.5,
                    "text": SUN,
                    "updated_at": "2024-03-09T22:16:08Z",
                    "was_cancelled": "True",
                },
            ]
        },
        judged(("1", RAIN, ["low", "wet"]), ("2", RAIN, ["high"])),
        {"cancelled": 1},
        kind="multi",
    ),
}

_FLAT = [
    {
        "id": "a",
        "status": "completed",
        "_server_id": "s1",
        "text": RAIN,
        "mood.responses": ["low", "high"],
        "mood.responses.users": [ANN, BEN],
        "mood.responses.status": ["submitted", "discarded"],
        "mood.suggestion": "low",
        "mood.suggestion.score": 0.4,
        "mood.suggestion.agent": "m",
    },
    {
        "id": "b",
        "status": "completed",
        "_server_id": "s2",
        "text": SUN,
        "mood.responses": ["high", "low"],
        "mood.responses.users": [ANN, CYD],
        "mood.responses.status": ["submitted", "draft"],
        "mood.suggestion": None,
        "mood.suggestion.score": None,
        "mood.suggestion.agent": None,
    },
    {
        "id": "c",
        "status": "pending",
        "_server_id": "s3",
        "text": FOG,
        "mood.responses": None,
        "mood.responses.users": None,
        "mood.responses.status": None,
        "mood.suggestion": "low",
        "mood.suggestion.score": 0.1,
        "mood.suggestion.agent": "m",
    },
]
_FLAT_JUDGED = judged((ANN, RAIN, "low"), (ANN, SUN, "high"))
_FLAT_LEFT = {"discarded": 1, "draft": 1}

ARGILLA = {
    "argilla to_json": Sample(
        "argilla",
        {
            "records.json": [
                {
                    "id": "a",
                    "fields": {"prompt": RAIN},
                    "metadata": {},
                    "suggestions": {"mood": {"value": "low", "score": None, "agent": None}},
                    "responses": {"mood": [{"value": "low", "user_id": ANN}, {"value": "high", "user_id": BEN}]},
                    "vectors": {},
                    "_server_id": "s1",
                },
                {
                    "id": "b",
                    "fields": {"prompt": SUN},
                    "metadata": {},
                    "suggestions": {},
                    "responses": {},
                    "vectors": {},
                    "_server_id": "s2",
                },
            ]
        },
        judged((ANN, RAIN, "low"), (BEN, RAIN, "high")),
    ),
    "argilla flat JSON": Sample("argilla", {"flat.json": _FLAT}, _FLAT_JUDGED, _FLAT_LEFT),
    "argilla Parquet": Sample("argilla", {"train.parquet": _FLAT}, _FLAT_JUDGED, _FLAT_LEFT),
    "argilla several labels": Sample(
        "argilla",
        {
            "multi.jsonl": [
                {
                    "id": "a",
                    "text": RAIN,
                    "tags.responses": [["wet", "cold"], ["wet"]],
                    "tags.responses.users": [ANN, BEN],
                    "tags.responses.status": ["submitted", "submitted"],
                    "stars.responses": [3, 5],
                    "stars.responses.users": [BEN, ANN],
                    "stars.responses.status": ["submitted", "submitted"],
                },
                {
                    "id": "b",
                    "text": SUN,
                    "tags.responses": [["cold"]],
                    "tags.responses.users": [ANN],
                    "tags.responses.status": ["submitted"],
                    "stars.responses": None,
                    "stars.responses.users": None,
                    "stars.responses.status": None,
                },
            ]
        },
        judged((ANN, RAIN, ["wet", "cold"]), (BEN, RAIN, ["wet"]), (ANN, SUN, ["cold"])),
        flags=("--label", "tags"),
        kind="multi",
    ),
}


def _prodigy(text: str, user: str, answer: str = "accept", **more: Any) -> dict[str, Any]:
    own = {"_timestamp": 1710000000, "_session_id": f"set-{user}", "_annotator_id": user, "_view_id": "choice"}
    return {"text": text, "_input_hash": 11, "_task_hash": 12, "answer": answer, **own, **more}


_OPTIONS = [{"id": "low", "text": "Low"}, {"id": "high", "text": "High"}]

PRODIGY = {
    "prodigy choice": Sample(
        "prodigy",
        {
            "out.jsonl": [
                _prodigy(RAIN, ANN, options=_OPTIONS, accept=["low"], config={"choice_style": "single"}),
                _prodigy(RAIN, BEN, options=_OPTIONS, accept=["high"], config={"choice_style": "single"}),
                _prodigy(SUN, ANN, "ignore", options=_OPTIONS, accept=[], config={"choice_style": "single"}),
                _prodigy(SUN, BEN, "reject", options=_OPTIONS, accept=["low"], config={"choice_style": "single"}),
            ]
        },
        judged((ANN, RAIN, "low"), (BEN, RAIN, "high")),
        {"ignore": 1, "rejected": 1},
    ),
    "prodigy several": Sample(
        "prodigy",
        {
            "several.jsonl": [
                _prodigy(RAIN, ANN, options=_OPTIONS, accept=["low"], config={"choice_style": "multiple"}),
                _prodigy(SUN, ANN, options=_OPTIONS, accept=[], config={"choice_style": "multiple"}),
                _prodigy(SUN, BEN, options=_OPTIONS, accept=["high"], config={"choice_style": "multiple"}),
            ]
        },
        judged((ANN, RAIN, ["low"]), (ANN, SUN, ["none"]), (BEN, SUN, ["high"])),
        kind="multi",
    ),
    "prodigy binary": Sample(
        "prodigy",
        {
            "binary.jsonl": [
                _prodigy(RAIN, ANN, label="WET", _view_id="classification"),
                _prodigy(RAIN, BEN, "reject", label="WET", _view_id="classification"),
                _prodigy(RAIN, ANN, "reject", label="WARM", _view_id="classification"),
                _prodigy(SUN, ANN, "ignore", label="WARM", _view_id="classification"),
            ]
        },
        judged((ANN, RAIN, "accept"), (BEN, RAIN, "reject"), (ANN, RAIN, "reject")),
        {"ignore": 1},
    ),
}

NESTED = {
    "nested": Sample(
        "nested",
        {
            "nested.json": [
                {
                    "text": RAIN,
                    "label": "gold",
                    "annotations": [{"label": 1, "user": 7781}, {"label": 0, "user": 7782}],
                },
                {"text": SUN, "label": "gold", "annotations": [{"label": 0, "user": 7781}]},
            ]
        },
        judged(("7781", RAIN, "1"), ("7782", RAIN, "0"), ("7781", SUN, "0")),
    ),
    "nested in one object": Sample(
        "nested",
        {"one.json": {"text": RAIN, "annotations": [{"label": "a", "user": ANN}, {"label": "b", "user": BEN}]}},
        judged((ANN, RAIN, "a"), (BEN, RAIN, "b")),
    ),
}
