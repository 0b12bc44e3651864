"""Each rewrite computes the same function, and really applies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from srtool.networks import rewrite
from srtool.networks.deployed import ImageOnly
from srtool.networks.generator import Generator, GeneratorConfig, fold_head

aten = torch.ops.aten
FREE = {
    0: torch.export.Dim("batch"),
    2: torch.export.Dim("height", min=6),
    3: torch.export.Dim("width", min=6),
}


def traced(module: nn.Module) -> fx.GraphModule:
    """The ATen graph of a network in float64, batch and sides free."""
    module = module.double().eval().requires_grad_(False)
    example = torch.rand(2, 3, 12, 20, dtype=torch.float64)
    program = torch.export.export(module, (example,), dynamic_shapes=(FREE,))
    graph = program.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    return graph


def images() -> list[Tensor]:
    """Of other sizes than the network was traced with."""
    random = torch.Generator().manual_seed(1)
    sizes = [(1, 3, 8, 10), (3, 3, 14, 6)]
    return [torch.rand(size, generator=random, dtype=torch.float64) for size in sizes]


def assert_equal(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype == torch.float64
    assert found.shape == expected.shape
    assert float((found - expected).norm() / expected.norm()) < 1e-12


def assert_folds(module: nn.Module, **expected: int) -> fx.GraphModule:
    """fold_constants keeps the function; expected: how often each rewrite applies, by kind."""
    graph = traced(module)
    applied = rewrite.fold_constants(graph)
    for image in images():
        assert_equal(graph(image), module(image))
    kinds = {"scale folded into convolution": "scale", "batch norm folded into convolution": "norm"}
    assert {kinds[name]: count for name, count in applied.items()} == expected
    return graph


def assert_changes_units(module: nn.Module, unit: float) -> fx.GraphModule:
    """change_units(f) is unit * f(u / unit)."""
    graph = traced(module)
    rewrite.change_units(graph, unit)
    for image in images():
        assert_equal(graph(image * unit), module(image) * unit)
    return graph


def count(graph: fx.GraphModule, *targets: Any) -> int:
    return sum(node.target in targets for node in graph.graph.nodes)


def products_with_numbers(graph: fx.GraphModule) -> list[float]:
    """The constants that the graph multiplies with."""
    products = [node for node in graph.graph.nodes if node.target is aten.mul.Tensor]
    return [node.args[1] for node in products if isinstance(node.args[1], (int, float))]


def conv(inputs: int = 3, outputs: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, **{"padding": 1, **options})


def random_norm(channels: int, affine: bool = True) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, affine=affine)
    nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.2, 2)  # type: ignore[arg-type]
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


class Function(nn.Module):
    """A network from layers and a function of them and the image."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


# Scales


@pytest.mark.parametrize(
    ("function", "folded"),
    [
        (lambda m, x: m.a(x) * 0.2 + x, 1),
        (lambda m, x: 0.2 * m.a(x) + x, 1),
        (lambda m, x: m.a(x) * -3, 1),
        (lambda m, x: m.a(x) * 0.5 * 0.25, 2),
        (lambda m, x: m.b(m.a(x) * 0.2) * 0.2, 2),
        (lambda m, x: m.a(x) * 0.2 + m.b(x) * 0.4, 2),
        # No constant, or not of one convolution alone:
        (lambda m, x: m.a(x) * m.b(x), 0),
        (lambda m, x: m.a(x) * x.mean(), 0),
        (lambda m, x: (m.a(x) + x) * 0.2, 0),
        (lambda m, x: x * 0.2 + m.a(x), 0),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_scales_fold(function: Callable[..., Tensor], folded: int, bias: bool) -> None:
    torch.manual_seed(0)
    module = Function(function, a=conv(bias=bias), b=conv(bias=bias))
    graph = assert_folds(module, **({"scale": folded} if folded else {}))
    remaining = count(traced(module), aten.mul.Tensor) - folded
    assert count(graph, aten.mul.Tensor) == remaining


def two_readers(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    return y * 0.2 + m.b(y)  # type: ignore[no-any-return]


def scaled_twice(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    return torch.cat((y * 0.2, y * 0.3), 1)


def changed_in_place(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y.add_(1)
    return y * 0.2  # type: ignore[no-any-return]


def scaled_in_place(m: Any, x: Tensor) -> Tensor:
    return m.a(x).mul_(0.2) + x  # type: ignore[no-any-return]


def view_changed_in_place(m: Any, x: Tensor) -> Tensor:
    y = m.a(x) * 0.2
    y[:, :1] += 1
    return y  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "function",
    [
        two_readers,
        scaled_twice,
        changed_in_place,
        lambda m, x: m.a(m.a(x) * 0.2),
        lambda m, x: m.a(x) * 0.2 + m.a(x.flip(3)),
    ],
)
def test_scales_stay_where_others_need_the_convolution(function: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    assert_folds(Function(function, a=conv(), b=conv()))


@pytest.mark.parametrize("function", [scaled_in_place, view_changed_in_place])
def test_in_place_operations_keep_their_meaning(function: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    module = Function(function, a=conv())
    graph = traced(module)
    rewrite.fold_constants(graph)
    for image in images():
        assert_equal(graph(image), module(image))


def shared_weight(attribute: str) -> nn.Module:
    module = Function(lambda m, x: m.a(x) * 0.2 + m.b(x), a=conv(), b=conv())
    setattr(module.b, attribute, getattr(module.a, attribute))
    return module


@pytest.mark.parametrize("attribute", ["weight", "bias"])
def test_shared_parameters_are_not_scaled(attribute: str) -> None:
    torch.manual_seed(0)
    module = shared_weight(attribute)
    graph = traced(module)
    rewrite.fold_constants(graph)
    for image in images():
        assert_equal(graph(image), module(image))


def test_a_convolution_under_two_names_is_not_scaled() -> None:
    torch.manual_seed(0)
    layer = conv()
    module = Function(lambda m, x: m.a(x) * 0.2 + m.b(x), a=layer, b=layer)
    graph = traced(module)
    rewrite.fold_constants(graph)
    for image in images():
        assert_equal(graph(image), module(image))


def test_a_weight_with_another_reader_is_not_scaled() -> None:
    torch.manual_seed(0)
    assert_folds(Function(lambda m, x: m.a(x) * 0.2 + m.a.weight.sum(), a=conv()))
    assert_folds(Function(lambda m, x: F.conv2d(x, m.a.weight * 2, padding=1) * 0.2, a=conv()))


# Batch norms


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norms_fold(bias: bool, affine: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        conv(3, 8, bias=bias), random_norm(8, affine), nn.ReLU(), conv(8, 5), random_norm(5, affine)
    )
    graph = assert_folds(module, norm=2)
    assert count(graph, aten.batch_norm.default) == 0
    assert sum(node.op == "get_attr" for node in graph.graph.nodes) == 4  # weights and biases


def test_scale_after_batch_norm_folds_too() -> None:
    torch.manual_seed(0)
    module = Function(
        lambda m, x: m.norm(m.a(x)) * 0.2 + x, a=conv(bias=False), norm=random_norm(3)
    )
    assert_folds(module, norm=1, scale=1)


@pytest.mark.parametrize(
    "layer",
    [
        conv(3, 6, groups=3),
        conv(3, 6, groups=3, bias=False),
        conv(3, 6, padding="same"),
        conv(3, 6, padding="same", bias=False, dilation=2),
        conv(3, 6, stride=2, padding=0),
        nn.Conv2d(3, 6, 1),
        conv(3, 6, padding_mode="reflect"),
    ],
    ids=lambda layer: str(layer).replace(" ", ""),
)
def test_every_kind_of_convolution_takes_norm_and_scale(layer: nn.Module) -> None:
    torch.manual_seed(0)
    assert_folds(
        Function(lambda m, x: m.norm(m.a(x)) * 0.2, a=layer, norm=random_norm(6)), norm=1, scale=1
    )


@pytest.mark.parametrize("groups", [1, 3])
def test_transposed_convolutions_are_left_alone(groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(3, 6, 4, 2, 1, groups=groups)
    assert_folds(Function(lambda m, x: m.norm(m.a(x)) * 0.2, a=layer, norm=random_norm(6)))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.norm(x) + m.a(x),
        lambda m, x: m.norm(F.relu(m.a(x))),
        lambda m, x: m.norm(m.a(x)) + m.norm(m.a(x.flip(2))),
        lambda m, x: (lambda y: m.norm(y) + y)(m.a(x)),
    ],
)
def test_batch_norms_of_anything_else_stay(function: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    assert_folds(Function(function, a=conv(), norm=random_norm(3)))


def test_a_batch_norm_without_statistics_stays() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(conv(), nn.BatchNorm2d(3, track_running_stats=False))
    assert_folds(module)


def test_one_batch_norm_after_two_convolutions_folds_into_both() -> None:
    torch.manual_seed(0)
    module = Function(
        lambda m, x: m.norm(m.a(x)) + m.norm(m.b(x)),
        a=conv(),
        b=conv(bias=False),
        norm=random_norm(3),
    )
    assert_folds(module, norm=2)


# Units


UNITS = [rewrite.PIXEL_UNIT, 3.7]


class Compact(nn.Module):
    """As Real-ESRGAN's small networks: PReLU, pixel shuffle, in-place sum with the image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 4), nn.PReLU(4), conv(4, 4), nn.PReLU(4), conv(4, 48))
        self.upsampler = nn.PixelShuffle(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.upsampler(self.body(x))
        out += F.interpolate(x, scale_factor=4.0, mode="nearest")
        return out


class MeanShifted(nn.Module):
    """As EDSR and SwinIR: the mean colour is taken off and put back."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1))
        self.a, self.b = conv(3, 4), conv(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(F.relu(self.a((x - self.mean) * 2.0)))
        return y / 2.0 + self.mean


@pytest.mark.parametrize("unit", UNITS)
def test_units_of_a_compact_network_cost_nothing(unit: float) -> None:
    torch.manual_seed(0)
    graph = assert_changes_units(Compact(), unit)
    assert count(graph, aten.mul.Tensor) == 0


@pytest.mark.parametrize("unit", UNITS)
def test_units_of_a_network_with_a_mean(unit: float) -> None:
    torch.manual_seed(0)
    assert_changes_units(MeanShifted(), unit)


def added_to_itself(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    return y + y  # type: ignore[no-any-return]


def added_to_itself_later(m: Any, x: Tensor) -> Tensor:
    y = F.relu(m.a(x))
    return y + y


def shuffled_and_cut(m: Any, x: Tensor) -> Tensor:
    y = F.pixel_shuffle(m.wide(F.pad(x, (0, 3, 0, 2), mode="reflect")), 4)
    return y[:, :, : 4 * x.shape[2], : 4 * x.shape[3]]


def two_ends(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(y) + y  # type: ignore[no-any-return]


def one_end_of_two(m: Any, x: Tensor) -> Tensor:
    y, up = m.a(x), F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.relu(y) - up[:, :, : x.shape[2], : x.shape[3]] + y


def skip_read_twice(m: Any, x: Tensor) -> Tensor:
    up = F.interpolate(x, scale_factor=2.0, mode="nearest")
    return m.a(up) + up  # type: ignore[no-any-return]


def reader_in_place(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y += m.b(x)
    y.mul_(y.sigmoid())
    return y  # type: ignore[no-any-return]


def statement_in_place(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y.add_(m.b(x))
    return y  # type: ignore[no-any-return]


def view_in_place_with_reader(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    first = y[:, :1].relu_()
    return y + m.b(x) * first  # type: ignore[no-any-return]


def view_in_place(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y[:, :1] += m.b(x)[:, :1]
    return y  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.a(x),
        lambda m, x: x,
        lambda m, x: x + x,
        lambda m, x: x + m.a(x),
        lambda m, x: x - m.a(x),
        lambda m, x: torch.add(x, m.a(x), alpha=3),
        lambda m, x: torch.sub(m.a(x), x, alpha=3),
        lambda m, x: m.a(x) + 1,
        lambda m, x: 1 - m.a(x),
        lambda m, x: m.a(x) + m.a.bias.view(1, 3, 1, 1),
        lambda m, x: m.a(m.a(x)),
        lambda m, x: m.a(x) + m.a(x.flip(3)),
        lambda m, x: m.b(F.relu(m.a(x))).clamp(0, 1),
        lambda m, x: m.b(torch.cat((m.a(x), x), 1)[:, 1:4]),
        lambda m, x: m.b(x.sqrt()),
        lambda m, x: m.b(x) * x,
        lambda m, x: F.interpolate(m.a(x), scale_factor=2.0, mode="nearest"),
        lambda m, x: F.interpolate(m.a(x), scale_factor=2.0, mode="bilinear"),
        lambda m, x: F.interpolate(m.a(x), scale_factor=2.0, mode="bicubic") + 0.5,
        lambda m, x: m.a(x).permute(0, 1, 3, 2),
        lambda m, x: m.a(x).reshape(x.shape[0], 3, x.shape[3], x.shape[2]),
        lambda m, x: m.a(x) + x.mean((2, 3), keepdim=True),
        lambda m, x: m.a(x) / 3,
        lambda m, x: F.conv2d(x, m.a.weight) + F.conv2d(x, m.b.weight, m.a.bias),
        lambda m, x: m.same(x) + m.transposed(x)[:, :, ::2, ::2],
        lambda m, x: m.transposed(x),
        lambda m, x: m.grouped(x) + x,
        lambda m, x: F.conv2d(m.a(x), x[:1, :, :3, :3], padding=1),
        lambda m, x: F.conv2d(x, m.b(x)[:1, :, :3, :3], padding=1),
        added_to_itself,
        added_to_itself_later,
        shuffled_and_cut,
        two_ends,
        one_end_of_two,
        skip_read_twice,
        reader_in_place,
        statement_in_place,
        view_in_place,
        view_in_place_with_reader,
    ],
)
@pytest.mark.parametrize("unit", UNITS)
def test_units_of_any_network(function: Callable[..., Tensor], unit: float) -> None:
    torch.manual_seed(0)
    layers = {
        "a": conv(),
        "b": conv(),
        "wide": conv(3, 48),
        "same": conv(padding="same"),
        "transposed": nn.ConvTranspose2d(3, 3, 4, 2, 1),
        "grouped": conv(groups=3),
    }
    assert_changes_units(Function(function, **layers), unit)


# Our generator


def plain_generator(config: GeneratorConfig, image_skip: bool) -> nn.Module:
    """The deployed form, with biases that are not zero."""
    torch.manual_seed(3)
    config = replace(config, blocks=2, taps=(1,), image_skip=image_skip)
    generator = Generator(config)
    for parameter in generator.parameters():
        nn.init.normal_(parameter, std=0.1)
    return ImageOnly(fold_head(generator))


@pytest.mark.parametrize("image_skip", [False, True])
def test_all_rewrites_of_our_generator(tiny_config: GeneratorConfig, image_skip: bool) -> None:
    module = plain_generator(tiny_config, image_skip)
    graph = traced(module)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    before = count(graph, aten.conv2d.default)
    applied = rewrite.fold_constants(graph)
    for image in images():
        assert_equal(graph(image), module(image))
    # Two RRDBs in the trunk, one in the gradient block and one in the fusion: three dense blocks
    # each. What is left are the outer scales of the RRDBs, whose input is a sum.
    assert applied == {"scale folded into convolution": 12}
    assert products_with_numbers(graph) == [0.2] * 4
    # One convolution feeds only the gradient output, which deployment drops.
    assert count(graph, aten.conv2d.default) == before - 1

    rewrite.change_units(graph, 3.7)
    for image in images():
        assert_equal(graph(image * 3.7), module(image) * 3.7)
    # One more for the gradient map: its 1e-6 is in units of 1.
    assert sorted(products_with_numbers(graph)) == [0.2] * 4 + [1 / 3.7]
    assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())


def test_all_rewrites_of_the_fast_layout(tiny_config: GeneratorConfig) -> None:
    """The factor passes the pixel shuffle and the skip: one product is left, for the gradient."""
    module = plain_generator(replace(tiny_config, layout="fast"), image_skip=True)
    graph = traced(module)
    before = count(graph, aten.conv2d.default)
    assert rewrite.fold_constants(graph) == {}
    assert count(graph, aten.conv2d.default) == before - 1  # that of the gradient output
    rewrite.change_units(graph, 3.7)
    for image in images():
        assert_equal(graph(image * 3.7), module(image) * 3.7)
    assert products_with_numbers(graph) == [1 / 3.7]


# Half precision


class Recording(fx.Interpreter):
    """Runs a graph and remembers the dtype of every result."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and n.op == "call_function":
            seen = Counter({(str(n.target).removeprefix("aten."), result.dtype): 1})
            self.dtypes: Counter[tuple[str, torch.dtype]] = (
                getattr(self, "dtypes", Counter()) + seen
            )
        return result


def halved(module: nn.Module) -> tuple[fx.GraphModule, Counter[tuple[str, torch.dtype]]]:
    """Rewritten in float16, compared with float32; also the dtypes of the results in it."""
    module = module.float().eval().requires_grad_(False)
    program = torch.export.export(module, (torch.rand(2, 3, 12, 20),), dynamic_shapes=(FREE,))
    graph = program.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    rewrite.fold_constants(graph)
    rewrite.change_units(graph)
    assert rewrite.halve(graph) > 0
    recording = Recording(graph)
    for image in images():
        found = recording.run(image.float() * rewrite.PIXEL_UNIT) / rewrite.PIXEL_UNIT
        expected = module(image.float())
        assert found.dtype is torch.float32
        assert float((found - expected).abs().max()) < 4e-3 * float(expected.abs().max())
    return graph, recording.dtypes


def dtypes_of(dtypes: Counter[tuple[str, torch.dtype]], *names: str) -> set[torch.dtype]:
    return {dtype for name, dtype in dtypes if name in names}


def test_our_trunk_runs_in_half_precision(tiny_config: GeneratorConfig) -> None:
    graph, dtypes = halved(plain_generator(tiny_config, image_skip=True))
    assert dtypes_of(dtypes, "conv2d.default") == {torch.float16}
    assert dtypes_of(dtypes, "leaky_relu.default", "cat.default") == {torch.float16}
    assert dtypes_of(dtypes, "sqrt.default", "pad.default") == {torch.float32}
    assert {v.dtype for v in graph.state_dict().values()} == {torch.float16}
    # In: the image and its gradient map. Out: the image.
    casts = [node for node in graph.graph.nodes if node.target is aten._to_copy.default]
    assert Counter(node.kwargs["dtype"] for node in casts) == {torch.float16: 2, torch.float32: 1}


def test_the_image_skip_of_a_compact_network_stays_in_float32() -> None:
    torch.manual_seed(0)
    _, dtypes = halved(Compact())
    assert dtypes_of(dtypes, "conv2d.default", "prelu.default") == {torch.float16}
    assert dtypes_of(dtypes, "upsample_nearest2d.vec", "add_.Tensor") == {torch.float32}


def reads_its_image_in_two_ways(m: Any, x: Tensor) -> Tensor:
    return m.b(F.relu(m.a(x)) + x * m.a.bias.view(1, 3, 1, 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "module",
    [
        MeanShifted(),
        Function(lambda m, x: m.b(F.relu(m.a(x)) + m.a(x.flip(2))), a=conv(), b=conv()),
        Function(lambda m, x: m.b(m.norm(F.relu(m.a(x)))), a=conv(), b=conv(), norm=random_norm(3)),
        Function(lambda m, x: m.b(torch.cat(m.a(x).chunk(2, 1), 1)), a=conv(3, 4), b=conv(4, 3)),
        Function(lambda m, x: m.b(m.a(x).sigmoid() * x) + x, a=conv(), b=conv()),
        Function(lambda m, x: m.b(F.relu(m.a(x))) * 0.5 + m.b(x), a=conv(), b=conv()),
        Function(reads_its_image_in_two_ways, a=conv(), b=conv()),
        nn.Sequential(conv(), nn.ReLU(inplace=True), nn.ConvTranspose2d(3, 3, 4, 2, 1)),
    ],
    ids=["mean", "shared", "norm", "chunks", "gate", "used twice", "product", "transposed"],
)
def test_other_networks_in_half_precision(module: nn.Module) -> None:
    torch.manual_seed(0)
    _, dtypes = halved(module)
    convolutions = dtypes_of(dtypes, "conv2d.default", "conv_transpose2d.input")
    assert convolutions == {torch.float16}


def test_a_mean_colour_stays_in_float32() -> None:
    torch.manual_seed(0)
    graph, dtypes = halved(MeanShifted())
    assert dtypes_of(dtypes, "sub.Tensor", "add.Tensor") == {torch.float32}
    assert [name for name, v in graph.state_dict().items() if v.dtype is torch.float32] == ["mean"]


def masked(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    column = torch.arange(y.shape[3])
    y = torch.where(column % 2 == 0, y, -y)
    return m.b(y[:, :, m.order % 3])  # type: ignore[no-any-return]


def test_indices_and_masks_are_not_cast() -> None:
    torch.manual_seed(0)
    module = Function(masked, a=conv(), b=conv())
    module.register_buffer("order", torch.tensor([4, 2, 0, 1, 3, 5]))
    _, dtypes = halved(module)
    assert dtypes_of(dtypes, "conv2d.default") == {torch.float16}
    assert dtypes_of(dtypes, "arange.default", "remainder.Scalar") == {torch.int64}
