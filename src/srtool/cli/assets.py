"""`srtool models` and `srtool assets`: the networks that ship, and the files and data sets that are
used but do not."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srtool.cli import console
from srtool.errors import AssetError, UsageError

if TYPE_CHECKING:
    from srtool.archives import DataSet
    from srtool.assets import Asset

assets_app = typer.Typer(
    name="assets",
    help="Files that metrics and losses use, and data sets, which srtool does not ship.",
    no_args_is_help=True,
)

Names = Annotated[list[str] | None, typer.Argument(help="Default: all but the data sets.")]

_FIGURES = (
    ("PSNR", "psnr", 2),
    ("SSIM", "ssim_wang", 4),
    ("NIQE", "niqe", 2),
    ("LPIPS", "lpips", 4),
)


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print the cards and paths.")] = False,
) -> None:
    """List the networks that ship with srtool; `--engine NAME` runs one."""
    from srtool.models import cards

    if as_json:
        found = [{**asdict(card), "path": str(card.path)} for card in cards()]
        console.answer(json.dumps(found))
        return
    from rich.table import Table

    from srtool.tables.writers import this_console

    datasets = list(dict.fromkeys(name for card in cards() for name in card.figures))
    known = {name for card in cards() for means in card.figures.values() for name in means}
    metrics = [metric for metric in _FIGURES if metric[1] in known]
    table = Table("name", "parameters", "MFLOP/pixel", *(m[0] for m in metrics), "for", box=None)
    for card in cards():
        cells = [
            " / ".join(
                f"{card.figures[name][metric]:.{digits}f}" if metric in card.figures[name] else "-"
                for name in datasets
            )
            for _, metric, digits in metrics
        ]
        size = f"{card.parameters / 1e6:.2f} M"
        table.add_row(card.name, size, f"{card.mflop:.1f}", *cells, card.summary)
    this_console().print(table)
    console.say(f"means on {' / '.join(datasets)}; `--engine {cards()[0].name}` is the default")


@assets_app.command("list")
def assets_list() -> None:
    """Show which files and data sets there are, and which are installed."""
    from srtool.archives import DATA_SETS, pictures_in
    from srtool.assets import ASSETS, cache_folder, state
    from srtool.tables.table import table_of_texts

    files = [(it.name, it.file, it.size, state(it), it.purpose) for it in ASSETS]
    data_sets = [
        (
            it.name,
            " + ".join(archive.size or "?" for archive in it.archives),
            f"{pictures_in(it)} of {it.pictures}",
            it.purpose,
            it.licence,
        )
        for it in DATA_SETS
    ]
    columns = ("data set", "download", "pictures", "for", "licence")
    console.print_tables(
        [
            table_of_texts(("name", "file", "size", "state", "for"), files, words=5),
            table_of_texts(columns, data_sets, words=5),
        ]
    )
    console.say(f"in {cache_folder()}; `srtool assets fetch NAME` downloads one")


@assets_app.command("fetch")
def assets_fetch(names: Names = None) -> None:
    """Download files and data sets from their publishers, and check them. Continues what was
    interrupted."""
    from srtool.archives import fetch_data_set
    from srtool.assets import ASSETS, Asset, fetch

    def fetched(wanted: Asset | DataSet) -> bool:
        from rich.progress import DownloadColumn, TimeRemainingColumn

        columns = DownloadColumn(), TimeRemainingColumn()
        try:
            with console.progress_bar(wanted.name, *columns, total=None) as show:

                def report(done: int, total: int | None) -> None:
                    show(completed=done, total=total)

                if isinstance(wanted, Asset):
                    path = fetch(wanted, report)
                else:
                    path = fetch_data_set(wanted, report)
        except AssetError as error:
            console.say(f"srtool: {error}")
            return False
        except KeyboardInterrupt:
            console.say("interrupted; the same command continues")
            raise
        console.answer(str(path))
        return True

    done = [
        fetched(wanted) for wanted in _named(names or [asset.name for asset in ASSETS if asset.url])
    ]
    if not all(done):
        raise typer.Exit(1)


@assets_app.command("check")
def assets_check(names: Names = None) -> None:
    """Look whether what is installed is what was published: files by their hashes, data sets by
    the number of their pictures and a hash over the pixels."""
    from srtool.archives import folder_of, pictures_in
    from srtool.assets import ASSETS, Asset, state
    from srtool.images.datasets import dataset_from_folder, digest_of

    wrong = False
    for wanted in _named(names or [asset.name for asset in ASSETS]):
        if isinstance(wanted, Asset):
            found = state(wanted)
            wrong |= found == "damaged" or (names is not None and found == "missing")
            console.answer(f"{wanted.name}: {found}")
            continue
        count = pictures_in(wanted)
        line = f"{wanted.name}: {count} of {wanted.pictures} pictures"
        if count == wanted.pictures:
            pixels = digest_of(dataset_from_folder(folder_of(wanted)))
            line += f", pixels {pixels[:16]}"
            if wanted.pixels:
                same = pixels == wanted.pixels
                line += " as in srtool's tables" if same else f", expected {wanted.pixels[:16]}"
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


def _named(names: list[str]) -> list[Asset | DataSet]:
    """UsageError for what is neither a file nor a data set."""
    from srtool.archives import DATA_SETS
    from srtool.assets import ASSETS

    known: dict[str, Asset | DataSet] = {it.name: it for it in (*ASSETS, *DATA_SETS)}
    for name in names:
        if name not in known:
            raise UsageError(f"{name}: no such asset; expected one of {', '.join(known)}")
    return [known[name] for name in names]
