"""What float16 costs, on any device: every operation computed in float32 and rounded once.

That is what the tensor cores of a GPU do, and no CPU computes float16 at any speed. Values beyond
65504 become infinite, as they do there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_SCALES = (torch.ops.aten.mul.Tensor, torch.ops.aten.mul.Scalar)


class Float16(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside of it parameters, factors and results are rounded to float16; tensors stay float32.

    What is given from outside stays as it is: pixels are exact in a float16 engine too, which
    carries them in units of 1/256.
    """

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        arguments = [rounded(arg) if isinstance(arg, nn.Parameter) else arg for arg in args]
        if function in _SCALES and isinstance(arguments[1], float):
            arguments[1] = rounded(torch.tensor(arguments[1])).item()
        return _mapped(rounded, function(*arguments, **(kwargs or {})))


def rounded(values: Tensor) -> Tensor:
    """To the nearest float16, in the tensor's own type; what is no real number stays."""
    return values.half().to(values.dtype) if values.is_floating_point() else values


def _mapped(change: Callable[[Tensor], Tensor], result: Any) -> Any:
    if isinstance(result, Tensor):
        return change(result)
    if isinstance(result, (tuple, list)):
        return type(result)(_mapped(change, item) for item in result)
    return result
