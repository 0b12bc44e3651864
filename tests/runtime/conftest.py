"""Engines that repeat pixels: what comes out of them is known exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.manifest import ModelFacts
from srtool.runtime.engine import Engine

MakeEngine = Callable[..., Engine]
MakeOnnx = Callable[..., Path]


def repeated(batch: NDArray[Any], io: str) -> NDArray[Any]:
    first = 1 if io == "uint8" else 2
    return batch.repeat(4, first).repeat(4, first + 1)


@pytest.fixture
def nearest() -> MakeEngine:
    """An x4 engine of numpy. before: called with each batch; it may wait, check or raise."""

    def make(
        before: Callable[[NDArray[Any]], object] = lambda batch: None,
        companion: bool = True,
        **facts: Any,
    ) -> Engine:
        given = {"scale": 4, "io": "uint8", "precision": "fp32", "architecture": "test", "halo": 2}
        model = ModelFacts.model_validate({**given, **facts})

        def session_of(io: str) -> Any:
            def run(batch: NDArray[Any]) -> NDArray[Any]:
                assert batch.dtype == (np.uint8 if io == "uint8" else np.float32)
                assert batch.shape[3 if io == "uint8" else 1] == 3
                assert batch.flags.c_contiguous
                before(batch)
                return repeated(batch, io)

            return run

        open_float = (lambda: session_of("float32")) if companion else None
        return Engine(Path("x4.onnx"), model, "test", "", session_of(model.io), open_float)

    return make


@pytest.fixture
def nearest_onnx(tmp_path: Path) -> MakeOnnx:
    """A file of someone else that repeats pixels, without manifest or metadata.

    io: pixels in and out. sides, batch, channels: of the input, names for free ones. extra: nodes
    between the input `x` and `y`, which is upscaled.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def make(
        name: str = "foreign.onnx",
        io: str = "float32",
        scale: int = 4,
        sides: tuple[Any, Any] = ("h", "w"),
        channels: int = 3,
        extra: Any = None,
        metadata: dict[str, str] | None = None,
    ) -> Path:
        bytewise = io == "uint8"
        kind = TensorProto.UINT8 if bytewise else TensorProto.FLOAT

        def shape(prefix: str) -> list[Any]:
            plane = [prefix + side if isinstance(side, str) else side for side in sides]
            return ["n", *plane, channels] if bytewise else ["n", channels, *plane]

        nodes = list(extra) if extra else [helper.make_node("Identity", ["x"], ["y"])]
        scales = np.array([1, 1, scale, scale], np.float32)
        resize = helper.make_node(
            "Resize",
            ["y", "", "scales"],
            ["z"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        if bytewise:
            nodes = [
                helper.make_node("Cast", ["image"], ["wide"], to=TensorProto.FLOAT),
                helper.make_node("Transpose", ["wide"], ["x"], perm=[0, 3, 1, 2]),
                *nodes,
                resize,
                helper.make_node("Transpose", ["z"], ["back"], perm=[0, 2, 3, 1]),
                helper.make_node("Cast", ["back"], ["large"], to=TensorProto.UINT8),
            ]
        else:
            entry = helper.make_node("Identity", ["image"], ["x"])
            nodes = [entry, *nodes, resize, helper.make_node("Identity", ["z"], ["large"])]
        graph = helper.make_graph(
            nodes,
            "nearest",
            [helper.make_tensor_value_info("image", kind, shape(""))],
            [helper.make_tensor_value_info("large", kind, ["n", "a", "b", "c"])],
            [numpy_helper.from_array(scales, "scales")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        helper.set_model_props(model, metadata or {})
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return make
