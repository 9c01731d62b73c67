"""Options that several commands take, each declared once."""

from pathlib import Path
from typing import Annotated

import typer

InputFile = Annotated[
    str | None,
    typer.Option("--input", "-i", help="JSON file of the execution's input; - for stdin."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Local = Annotated[
    bool, typer.Option("--local", help="Run on this machine, in a local cloud: the default.")
]
MaxCost = Annotated[
    float,
    typer.Option(
        help="With --stack: ask first when the estimated cost is above this, in dollars.", min=0
    ),
]
Profile = Annotated[str | None, typer.Option(help="AWS profile.")]
Region = Annotated[str | None, typer.Option(help="AWS region.")]
Runs = Annotated[Path, typer.Option(help="Folder of the run folders.")]
Stack = Annotated[
    str | None, typer.Option("--stack", help="Run on AWS, in the stack of this name.")
]
Watch = Annotated[
    bool,
    typer.Option(
        "--watch/--no-watch", help="Follow to the end and fetch the results; or only start."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="With --stack: do not ask.")]
