"""Options that several commands have, each declared once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Raw = Annotated[Path | None, typer.Option(help="Folder with the task's raw files; otherwise the cache or publisher.")]
Base = Annotated[str | None, typer.Option(help="Base model, see 'peftu bases'; default smollm2-135m-instruct.")]
Device = Annotated[
    str | None, typer.Option(help="Where bases compute: auto (a GPU if there is one), cpu, cuda[:N], mps.")
]
Dtype = Annotated[str | None, typer.Option(help="In which numbers: auto, float32, bfloat16 or float16.")]
Quantize = Annotated[str | None, typer.Option(help="How the weights of bases' layers are held: none, int8 or nf4.")]
Regime = Annotated[
    str | None,
    typer.Option(
        help="within-user (default), unseen-text, unseen-user (k labelled items: -s split.k=5), temporal or published."
    ),
]
Region = Annotated[str | None, typer.Option(help="Where modules act, as depth=6,span=last (or answer, all).")]
Users = Annotated[int | None, typer.Option(min=1, help="At most this many users, drawn by hash.")]
MinItems = Annotated[int | None, typer.Option(help="Users with fewer items are left out and counted; default 10.")]
MaxItems = Annotated[int | None, typer.Option(help="At most this many items a user, drawn by hash.")]
Seeds = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Number of seeds, each a split and a start of its own.")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over a user's items at most; default by method.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate; default by method.")]
WarmStart = Annotated[str | None, typer.Option(help="none, or global: train on everyone, then each user from there.")]
Shrink = Annotated[float | None, typer.Option(help="Pull of a user's module towards its warm start.")]
Setting = Annotated[list[str] | None, typer.Option("-s", "--set", help="A rare knob, as train.batch=16.")]
Config = Annotated[Path | None, typer.Option(help="YAML file with a run's description; flags win over it.")]
PresetName = Annotated[
    str | None,
    typer.Option("--preset", help="Settings beneath all flags: a name from docs/runs.md, or a file of 'peftu tune'."),
]
# How a file is read, where that is not found by itself.
Format = Annotated[str | None, typer.Option("--format", help="The file's layout: a reader's name, see docs/data.md.")]
Encoding = Annotated[str | None, typer.Option(help="Codec of the file's text, as cp1251.")]
Sheet = Annotated[str | None, typer.Option(help="Name of a spreadsheet's sheet; needed where several have rows.")]
Member = Annotated[str | None, typer.Option(help="The file in an archive that is meant.")]
LabelsFile = Annotated[
    Path | None, typer.Option(help="All labels in order, as a JSON list in a file: for labels with commas.")
]
TaskOption = Annotated[list[str] | None, typer.Option("--option", help="A task's option, as group=g1.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; default runs/<task>-<id>, or the next free one.")]
IfExists = Annotated[
    Literal["resume", "overwrite", "error"],
    typer.Option(help="Where --out holds a run: go on with the same one, put this one in its place, or stop."),
]
ExecutorName = Annotated[str, typer.Option("--executor", help="What fills cells: local, or ray.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that work at once; 0: a core each.")]
Address = Annotated[str | None, typer.Option(help="Of a Ray cluster: auto, or HOST:PORT; without one Ray starts here.")]
Gpus = Annotated[
    float | None,
    typer.Option(min=0, help="GPUs a Ray worker takes, as 0.5; default 1 where bases compute on GPUs."),
]
CellsFolder = Annotated[Path | None, typer.Option("--cells", help="Folder of the cells, shared by runs.")]
MaxMinutes = Annotated[float | None, typer.Option(min=0, help="Begin no cell after this; the same command goes on.")]
Track = Annotated[
    list[str] | None, typer.Option(help="Also log to tensorboard:FOLDER or mlflow:FOLDER; may be given several times.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing on stderr but errors.")]
Replace = Annotated[bool, typer.Option("--replace", help="Take the place of what --out holds of an earlier one.")]

# Of what a run keeps.
User = Annotated[str, typer.Option(help="The user's key.")]
Method = Annotated[str | None, typer.Option(help="Whose modules, when the run trained several methods.")]
Seed = Annotated[int | None, typer.Option(help="Which seed's modules; the first by default.")]
MovedBase = Annotated[str | None, typer.Option(help="Where the base is now, if it has moved since training.")]
