"""The command line: each command is one call into a stage.

Imports of the stages stand inside the commands so that `srtool --help` is
instant and each command needs only its own extra installed.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Annotated

import typer

from srtool.cli import console
from srtool.cli.assets import assets_app, models
from srtool.cli.bench import bench_app
from srtool.cli.doctor import doctor
from srtool.cli.engine import engine_app
from srtool.cli.evaluate import evaluate, verify
from srtool.cli.export import export
from srtool.cli.infer import infer
from srtool.cli.report import report
from srtool.cli.serve import serve, triton
from srtool.cli.train import train_app
from srtool.errors import ExportError, SrtoolError
from srtool.system import versions
from srtool.version import __version__

app = typer.Typer(
    name="srtool",
    help="Train, export, run and certify perceptual x4 super-resolution networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(assets_app)
app.add_typer(train_app)
app.command()(export)
app.command()(infer)
app.command()(models)
app.command()(serve)
app.command()(triton)
app.command()(evaluate)
app.command()(verify)
app.command()(report)
app.add_typer(bench_app)
app.add_typer(engine_app)
app.command()(doctor)


# What decides how fast and how right srtool is here; `srtool doctor` says more of them.
PARTS = (
    *("numpy", "pyvips", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "tensorrt"),
    *("tensorrt-cu12", "tensorrt-rtx-cu13-bindings", "cuda-python", "onnx", "spandrel"),
)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    console.answer(f"srtool {__version__}")
    console.answer(", ".join(f"{name} {version}" for name, version in versions(PARTS).items()))
    raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version, and those of its parts, and exit.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Print results and problems, no progress.")
    ] = False,
) -> None:
    console.be_quiet(quiet)


class _Terminated(KeyboardInterrupt):
    """SIGTERM: everything is wound up as on Ctrl-C."""


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # asked once is enough
    raise _Terminated


def _send_again(lost: sys.UnraisableHookArgs) -> None:
    """An interrupt that came where Python lets nothing through, in the callback of a weak
    reference for one, would be printed and forgotten."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    number = signal.SIGINT
    if issubclass(lost.exc_type, _Terminated):
        number = signal.SIGTERM
        signal.signal(signal.SIGTERM, _terminate)
    send: Callable[..., None] = signal.raise_signal
    if hasattr(signal, "pthread_kill"):  # wakes the thread that is to take it
        send = partial(signal.pthread_kill, threading.main_thread().ident or 0)
    again = threading.Timer(0.05, send, (number,))
    again.daemon = True
    again.start()


def main() -> None:
    """Entry point: a known error is one line, and an interrupt is no traceback."""
    # What a console's code page lacks is escaped; it is no reason to end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
        sys.unraisablehook = _send_again
    try:
        app()
    except SystemExit as ended:
        cause: BaseException | None = ended  # typer turns every KeyboardInterrupt into this
        while cause is not None and not isinstance(cause, _Terminated):
            cause = cause.__context__
        sys.exit(143 if cause is not None else ended.code)
    except SrtoolError as error:
        console.complain(f"srtool: {console.line_of(error)}")
        sys.exit(1 if isinstance(error, ExportError) else 2)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        console.complain(f"srtool: {name}{error.strerror or error}")
        sys.exit(2)
    except _Terminated:
        sys.exit(143)
    except KeyboardInterrupt:
        sys.exit(130)
