"""`srtool assets`: files that are used but not shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srtool.cli import progress as console
from srtool.errors import AssetError

assets_app = typer.Typer(
    name="assets",
    help="Files that metrics and losses use but srtool does not ship.",
    no_args_is_help=True,
)


@assets_app.command("list")
def assets_list() -> None:
    """Show which files there are, and which are installed."""
    from srtool.cli import tables

    tables.print_assets()


@assets_app.command("fetch")
def assets_fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all of them.")] = None,
) -> None:
    """Download files from their publishers, and check them. Continues what was interrupted."""
    from srtool import assets

    def fetched(asset: assets.Asset) -> bool:
        try:
            with console.download_progress(asset.file) as report:
                path = assets.fetch(asset, report)
        except AssetError as error:
            console.say(f"srtool: {error}")
            return False
        except KeyboardInterrupt:
            console.say("interrupted; the same command continues")
            raise
        console.answer(str(path))
        return True

    whole = [asset for asset in assets.ASSETS if asset.url]
    wanted = [assets.asset_named(name) for name in names] if names else whole
    done = [fetched(asset) for asset in wanted]
    if not all(done):
        raise typer.Exit(1)


@assets_app.command("add")
def assets_add(
    file: Annotated[Path, typer.Argument(help="A file got by hand, of any name.")],
) -> None:
    """Copy a file into the cache; it is recognised by its content."""
    from srtool import assets

    asset, path = assets.add_asset(file)
    console.say(f"{file} is {asset.name}: {asset.purpose}")
    console.answer(str(path))
