"""Export: a network in, ONNX files that compute the same function out.

`srtool.export(...)` is a call and `srtool.export` a folder: the module of the folder can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """See `srtool.export.call.export`."""
        from srtool.export.call import export

        return export(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
