"""The ``footprints`` command."""

from __future__ import annotations

from typing import Annotated

import typer

from footprints.commands import about, layers, learning, scenes
from footprints.commands.console import OneLineErrors
from footprints.model.allocator import share_heap

app = typer.Typer(
    cls=OneLineErrors,
    help="Building footprints from satellite and aerial imagery: GeoTIFF in, clean polygons out.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from footprints import __version__

        print(f"footprints {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


app.command()(scenes.predict)
app.command()(scenes.finish)
app.command()(layers.regularize)
app.command()(layers.merge)
app.command()(learning.train)
app.command("lr-find")(learning.lr_find)
app.command()(learning.show)
app.command()(layers.view)
app.command()(learning.chip)
app.command()(layers.evaluate)
app.command()(learning.calibrate)
app.command()(about.convert)
app.command()(about.info)


def main() -> None:
    """Entry point: errors of ours are one line and exit status 1."""
    share_heap()
    app()


if __name__ == "__main__":
    main()
