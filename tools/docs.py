"""Hooks of mkdocs: the picture of the layers, and the API page, both made from the code."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from layers import drawing
from mkdocs.structure.files import File, Files

import srtool

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

API = "<!-- api -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the picture; nothing is written into docs/."""
    files.append(File.generated(config, "layers.svg", content=drawing()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put every public name, where it is defined, in the place of the API marker."""
    return markdown.replace(API, "\n".join(f"::: {path}" for path in public_paths()))


def public_paths() -> list[str]:
    """Where each name of `srtool.__all__` is defined: srtool.errors.SrtoolError."""
    paths = []
    for name in getattr(srtool, "__all__", ()):
        thing = getattr(srtool, name)
        if isinstance(thing, ModuleType):  # a folder that can be called as well
            paths.append(f"{thing.__name__}.{name}")
        elif module := getattr(thing, "__module__", None):
            paths.append(f"{module}.{thing.__qualname__}")
    return paths
