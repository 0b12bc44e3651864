"""`srtool assets`: files and data sets that are used but not shipped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srtool.cli import progress as console
from srtool.errors import AssetError, UsageError

if TYPE_CHECKING:
    from srtool.archives import DataSet

assets_app = typer.Typer(
    name="assets",
    help="Files that metrics and losses use, and data sets, which srtool does not ship.",
    no_args_is_help=True,
)

Names = Annotated[list[str] | None, typer.Argument(help="Default: all but the data sets.")]


@assets_app.command("list")
def assets_list() -> None:
    """Show which files and data sets there are, and which are installed."""
    from srtool.cli import tables

    tables.print_assets()


@assets_app.command("fetch")
def assets_fetch(names: Names = None) -> None:
    """Download files and data sets from their publishers, and check them. Continues what was
    interrupted."""
    from srtool import archives, assets

    def fetched(name: str) -> bool:
        try:
            with console.download_progress(name) as report:
                if data_set := _data_set(name):
                    path = archives.fetch_data_set(data_set, report)
                else:
                    path = assets.fetch(assets.asset_named(name), report)
        except AssetError as error:
            console.say(f"srtool: {error}")
            return False
        except KeyboardInterrupt:
            console.say("interrupted; the same command continues")
            raise
        console.answer(str(path))
        return True

    wanted = names or [asset.name for asset in assets.ASSETS if asset.url]
    for name in wanted:
        _check_name(name)
    done = [fetched(name) for name in wanted]
    if not all(done):
        raise typer.Exit(1)


@assets_app.command("check")
def assets_check(names: Names = None) -> None:
    """Look whether what is installed is what was published: files by their hashes, data sets by
    the number of their pictures and a hash over the pixels."""
    from srtool import archives, assets
    from srtool.images.datasets import dataset_from_folder, digest_of

    wanted = names or [asset.name for asset in assets.ASSETS]
    for name in wanted:
        _check_name(name)
    wrong = False
    for name in wanted:
        data_set = _data_set(name)
        if data_set is None:
            state = assets.state(assets.asset_named(name))
            wrong |= state == "damaged" or (names is not None and state == "missing")
            console.answer(f"{name}: {state}")
            continue
        count = archives.pictures_in(data_set)
        line = f"{name}: {count} of {data_set.pictures} pictures"
        if count == data_set.pictures:
            pixels = digest_of(dataset_from_folder(archives.folder_of(data_set)))
            line += f", pixels {pixels[:16]}"
            if data_set.pixels:
                same = pixels == data_set.pixels
                line += " as in srtool's tables" if same else f", expected {data_set.pixels[:16]}"
                wrong |= not same
        else:
            wrong = True
        console.answer(line)
    if wrong:
        raise typer.Exit(1)


@assets_app.command("add")
def assets_add(
    file: Annotated[Path, typer.Argument(help="A file or archive got by hand, of any name.")],
) -> None:
    """Copy a file into the cache, or unpack the archive of a data set there; it is recognised by
    its content."""
    from srtool import archives, assets

    if found := archives.add_archive(file):
        data_set, path = found
        count = f"{archives.pictures_in(data_set)} of {data_set.pictures} pictures are there"
        console.say(f"{file} is of {data_set.name}: {count}")
    else:
        asset, path = assets.add_asset(file)
        console.say(f"{file} is {asset.name}: {asset.purpose}")
    console.answer(str(path))


def _data_set(name: str) -> DataSet | None:
    from srtool.archives import DATA_SETS

    return next((data_set for data_set in DATA_SETS if data_set.name == name), None)


def _check_name(name: str) -> None:
    """UsageError for what is neither a file nor a data set."""
    from srtool.archives import DATA_SETS
    from srtool.assets import ASSETS

    known = [it.name for it in (*ASSETS, *DATA_SETS)]
    if name not in known:
        raise UsageError(f"{name}: no such asset; expected one of {', '.join(known)}")
