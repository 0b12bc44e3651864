"""The recipes that ship, and reading any recipe file. A recipe may extend another one:

extends: paper.yaml        # a file beside this one, or a shipped recipe
stage2:
  weights: {lpips: 0}      # all else stays as it is there; null takes a part away
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from srtool.errors import UsageError
from srtool.train.recipe import Recipe, nearest


def recipe_from_file(name: str | Path) -> Recipe:
    """Read a recipe from a path, or one that srtool ships by its bare name ("lite.yaml").

    UsageError in one line for a file that is missing or no recipe, and for a key or value that
    is not allowed, with the nearest name that is.
    """
    try:
        return Recipe.model_validate(_content(str(name), Path(), ()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = _model_at(Recipe, first["loc"][:-1]).model_fields
            reason = f"unknown key; {nearest(first['loc'][-1], known)}"
        raise UsageError(f"{name}: {where + ': ' if where else ''}{reason}") from None


def shipped_recipes() -> list[str]:
    folder = resources.files("srtool.train") / "recipes"
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _content(name: str, folder: Path, below: tuple[str, ...]) -> dict[str, Any]:
    """The mapping in a recipe, with those that it extends under it. below: files being read."""
    import yaml

    path, text = _text(name, folder, below)
    if path in below:
        raise UsageError(f"{name}: extends itself, through {' -> '.join((*below, path))}")
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{name}: is not YAML ({' '.join(str(error).split())[:200]})") from None
    if not content:
        raise UsageError(
            f"{name}: is empty; expected a recipe, such as `extends: paper.yaml` alone"
        )
    if not isinstance(content, dict):
        raise UsageError(f"{name}: a recipe is a mapping of keys, found {type(content).__name__}")
    parent = content.pop("extends", None)
    if parent is None:
        return content
    if not isinstance(parent, str):
        raise UsageError(f"{name}: extends: expected the name of a recipe, found {parent!r}")
    joined: dict[str, Any] = _over(_content(parent, Path(path).parent, (*below, path)), content)
    return joined


def _text(name: str, folder: Path, below: tuple[str, ...]) -> tuple[str, str]:
    """The path and the text of a recipe: a file wins over a shipped recipe of its name."""
    path = folder / name
    shipped = resources.files("srtool.train") / "recipes" / name
    if path.is_file():
        try:
            return str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{name}: cannot be read as a text file ({error})") from None
    if Path(name).name == name and shipped.is_file():
        return name, shipped.read_text(encoding="utf-8")
    child = f"{below[-1]}: extends " if below else ""
    raise UsageError(f"{child}{name}: no such recipe; shipped ones: {', '.join(shipped_recipes())}")


def _over(below: Any, above: Any) -> Any:
    """`above` laid over `below`: mappings are joined key by key, everything else is replaced. A
    preset starts anew, since sizes of another one would not fit it."""
    if isinstance(below, str) and isinstance(above, dict):  # sizes over a preset's name
        below = {"preset": below}
    if not (isinstance(below, dict) and isinstance(above, dict)) or "preset" in above:
        return above
    return {**below, **{key: _over(below.get(key), value) for key, value in above.items()}}


def _model_at(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that a path of keys leads to; Optional[...] is looked through."""
    for key in path:
        annotation = model.model_fields[str(key)].annotation
        inner = [annotation, *get_args(annotation)]
        model = next(x for x in inner if isinstance(x, type) and issubclass(x, BaseModel))
    return model
