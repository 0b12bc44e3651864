"""Rewrites of a traced graph: the same values on every backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import openvino
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srtool.export.rewrite import cut_by_index


class Windows(nn.Module):
    """Pads its input to whole windows, blurs within them, and cuts it back, again and again."""

    def __init__(self, times: int, window: int = 8) -> None:
        super().__init__()
        self.times, self.window = times, window

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            height, width = x.shape[2:]
            more = [(self.window - side % self.window) % self.window for side in (width, height)]
            x = F.pad(x, (0, more[0], 0, more[1]), "reflect")
            x = self._within(x)
            x = x[:, :, :height, :width].contiguous()
        return x

    def _within(self, x: Tensor) -> Tensor:
        number, channels, height, width = x.shape
        rows, columns, side = height // self.window, width // self.window, self.window
        windows = x.view(number, channels, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
        windows = windows.reshape(-1, channels, side, side)
        windows = windows + windows.mean((2, 3), keepdim=True)
        windows = windows.view(number, rows, columns, channels, side, side)
        return windows.permute(0, 3, 1, 4, 2, 5).reshape(number, channels, height, width)


def traced(module: nn.Module, path: Path) -> onnx.ModelProto:
    free = {2: "height", 3: "width"}
    torch.onnx.export(
        module,
        (torch.rand(1, 3, 27, 45),),
        str(path),
        dynamo=False,
        dynamic_axes={"image": free, "made": free},
        input_names=["image"],
        output_names=["made"],
        opset_version=18,
    )
    model = onnx.load(path)
    constants = [node for node in model.graph.node if node.op_type == "Constant"]
    for node in constants:  # as `traced_from_network` has them
        values = onnx.numpy_helper.to_array(node.attribute[0].t)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, node.output[0]))
        model.graph.node.remove(node)
    return model


@pytest.mark.filterwarnings("ignore")  # what the exporter says of Python numbers
@pytest.mark.parametrize("times", [1, 2, 3])
def test_cuts_before_another_padding(tmp_path: Path, times: int) -> None:
    module = Windows(times)
    model = traced(module, tmp_path / "x.onnx")
    applied = cut_by_index(model)
    assert sum(applied.values()) == 2 * (times - 1)  # rows and columns; the last cut stays
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for height, width in ((24, 40), (27, 45), (13, 61)):
        image = torch.rand(1, 3, height, width)
        expected = module(image).numpy()
        for found in (session.run(None, {"image": image.numpy()})[0], compiled([image.numpy()])[0]):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_model_without_such_cuts_is_left_as_it_is(tmp_path: Path) -> None:
    model = traced(Windows(1), tmp_path / "x.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert cut_by_index(model) == {}
    assert [node.op_type for node in model.graph.node] == kinds
    assert "Slice" in kinds
