"""Folders that ``save_to_disk`` of Hugging Face ``datasets`` wrote."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import ValidationError

from peftu.data.readers.source import Source
from peftu.data.task import TaskCard
from peftu.errors import PeftuError

if TYPE_CHECKING:
    from peftu.data.readers.file import File

CARD = "peftu-card.json"
OWN = {"user": "user_id", "item": "item_id", "time": "time", "context": "context", "text": "text", "label": "label"}
NAMES = ("dataset_dict.json", "dataset_info.json")


class DatasetsFolder:
    """Reads all parts, class numbers as names, with peftu's card where it lies beside them."""

    name = "datasets"
    title = "a folder of Hugging Face datasets"
    plain = True

    def claims(self, file: "File") -> bool:
        """Returns whether it is a folder with what ``datasets`` writes about it."""
        return file.shape == "folder" and any((file.data / name).is_file() for name in NAMES)

    def open(self, file: "File") -> Source:
        """Returns its rows, the part that each is in as column 'split'."""
        datasets = datasets_package()
        try:
            loaded = datasets.load_from_disk(str(file.data))
        except (OSError, ValueError, KeyError):
            raise PeftuError(f"{file.path}: is damaged or of another version of datasets — save it again") from None
        parts = loaded if isinstance(loaded, dict) else {None: loaded}
        frames = [
            _named(datasets, part).with_columns(*([] if name is None else [pl.lit(name).alias("split")]))
            for name, part in parts.items()
        ]
        frame = pl.concat(frames, how="diagonal_relaxed")
        card = _card(file.data / CARD)
        roles = {role: name for role, name in OWN.items() if name in frame.columns} if card else {}
        return Source.of_frame(file.path, "HUGGING FACE DATASETS", frame, roles=roles, card=card, named=True)


READER = DatasetsFolder()


def datasets_package() -> Any:
    """Returns the package; it is an extra."""
    try:
        import datasets
    except ImportError:
        raise PeftuError("Hugging Face folders need the package datasets — pip install 'peftu[hub]'") from None
    return datasets


def _named(datasets: Any, part: Any) -> pl.DataFrame:
    """Returns the rows of one part, classes by their names."""
    frame = pl.DataFrame(pl.from_arrow(part.with_format("arrow")[:]))
    for column, feature in part.features.items():
        inner = getattr(feature, "feature", None)
        if isinstance(feature, datasets.ClassLabel):
            frame = frame.with_columns(_names(pl.col(column), feature.names))
        elif isinstance(inner, datasets.ClassLabel):
            frame = frame.with_columns(pl.col(column).list.eval(_names(pl.element(), inner.names)))
    return frame


def _names(numbers: pl.Expr, names: list[str]) -> pl.Expr:
    return numbers.replace_strict(dict(enumerate(names)), default=None, return_dtype=pl.String)


def _card(path: Path) -> TaskCard | None:
    try:
        return TaskCard.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValidationError, OSError, UnicodeDecodeError):
        raise PeftuError(f"{path}: is damaged — delete it to have the labels found anew, or export again") from None
