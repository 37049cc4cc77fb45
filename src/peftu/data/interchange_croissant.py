"""A Croissant 1.0 description of an exported table: JSON-LD that data-set search and loaders read."""

from typing import Any

import polars as pl

from peftu.data.task import TaskCard

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
RECORDS = "judgements"
# The context of the specification, https://docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html, appendix 1.
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
MEANING = {
    "user_id": "Who judged.",
    "item_id": "What was judged; one key, one text.",
    "text": "The text judged.",
    "label": "What the user said of it.",
    "context": "What the text answers.",
    "time": "Seconds since 1970-01-01 UTC.",
    "meta": "A JSON object: facts on the user or the item.",
}


def croissant(card: TaskCard, frame: pl.DataFrame, file: str, sha256: str, size: int) -> dict[str, Any]:
    """Returns the JSON-LD of a table.

    Args:
        card: the task's card.
        frame: the table, as it stands in the file.
        file: name of the Parquet file beside the description.
        sha256: of the file.
        size: bytes of the file.
    """
    version = ".".join([*card.version.split("."), "0", "0"][:3])
    description = card.description + (f" Warning: {card.content_warning}" if card.content_warning else "")
    about = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": card.name,
        "alternateName": card.title,
        "description": description,
        "conformsTo": CONFORMS_TO,
        "citeAs": card.citation,
        "license": card.licence,
        "url": card.homepage,
        "version": version,
        "inLanguage": card.language,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": file,
                "name": file,
                "contentUrl": file,
                "contentSize": f"{size} B",
                "encodingFormat": "application/x-parquet",
                "sha256": sha256,
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": RECORDS,
                "name": RECORDS,
                "description": f"One judgement a row. A user is: {card.user}",
                "key": [{"@id": f"{RECORDS}/user_id"}, {"@id": f"{RECORDS}/item_id"}],
                "field": [_field(name, dtype, file) for name, dtype in frame.schema.items()],
            }
        ],
    }
    return {key: value for key, value in about.items() if value}


def _field(name: str, dtype: pl.DataType, file: str) -> dict[str, Any]:
    field: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"{RECORDS}/{name}",
        "name": name,
        "description": MEANING[name],
        "dataType": "sc:Float" if dtype.is_float() else "sc:Text",
        "source": {"fileObject": {"@id": file}, "extract": {"column": name}},
    }
    return field | ({"repeated": True} if isinstance(dtype, pl.List) else {})
