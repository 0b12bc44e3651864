"""Exact rewrites of a network's graph before export: same function, fewer operations.

They work on the ATen graph that torch.export gives, so they serve our generator and any network
that spandrel opens alike. The head fold, which needs to know the architecture, is
`srtool.networks.generator.fold_head`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

aten = torch.ops.aten
_CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding)


# Our graphs carry colours in units of 1/256: pixel values are whole numbers times a power of two,
# hence exact in bfloat16 and float16 alike, and an image skip loses nothing in either.
PIXEL_UNIT = 255 / 256


def fold_constants(graph: fx.GraphModule) -> dict[str, int]:
    """Fold batch norms and constant scales into convolutions, in place.

    Returns how often each rewrite applied, by name.
    """
    applied = {
        "batch norm folded into convolution": _fold(graph, _batch_norm_of),
        "scale folded into convolution": _fold(graph, _scale_of),
    }
    _clean(graph)
    return {name: count for name, count in applied.items() if count}


def change_units(graph: fx.GraphModule, unit: float = PIXEL_UNIT) -> None:
    """Turn f into g(u) = unit * f(u / unit), in place, without a multiplication on the way where
    that can be avoided: the last convolution takes the factor, the first ones its inverse, and
    an image skip between them passes the pixels through untouched.
    """
    nodes = graph.graph.nodes
    source = next(node for node in nodes if node.op == "placeholder")
    output = next(node for node in nodes if node.op == "output")
    (result,) = output.args[0] if isinstance(output.args[0], (tuple, list)) else output.args
    assert isinstance(result, fx.Node)
    skips: set[tuple[fx.Node, fx.Node]] = set()
    _push(graph, result, output, unit, source, skips)
    colours: fx.Node | None = None
    for reader in list(source.users):
        if (reader, source) in skips:
            continue
        if reader.target in _CONVOLUTIONS and _has_private_parameters(reader):
            one = torch.ones((), dtype=torch.float64)
            _scale_convolution(graph, reader, one / unit, torch.zeros_like(one), bias_scale=one)
            continue
        if colours is None:
            with graph.graph.inserting_after(source):
                colours = graph.graph.call_function(aten.mul.Tensor, (source, 1 / unit))
                colours.meta = dict(source.meta)
        reader.replace_input_with(source, colours)
    _clean(graph)


# Operations that commute with a factor, by which arguments carry it.
_LINEAR = {
    aten.pixel_shuffle.default: 1,
    aten.upsample_nearest2d.vec: 1,
    aten.upsample_bilinear2d.vec: 1,
    aten.upsample_bicubic2d.vec: 1,
    aten.slice.Tensor: 1,
    aten.permute.default: 1,
    aten.reshape.default: 1,
    aten.add.Tensor: 2,
    aten.add_.Tensor: 2,
    aten.sub.Tensor: 2,
}


def _push(
    graph: fx.GraphModule,
    node: fx.Node,
    reader: fx.Node,
    unit: float,
    source: fx.Node,
    skips: set[tuple[fx.Node, fx.Node]],
) -> None:
    """Multiply what `reader` gets from `node` by unit, as far up the graph as it goes."""
    if node is source:
        skips.add((reader, source))
    elif _is_private(node):
        factor = torch.tensor(unit, dtype=torch.float64)
        _scale_convolution(graph, node, factor, torch.zeros_like(factor))
    elif node.target in _LINEAR and len(node.users) == 1 and _tensors_only(node):
        for argument in dict.fromkeys(node.args[: _LINEAR[node.target]]):  # once for x + x
            assert isinstance(argument, fx.Node)
            _push(graph, argument, node, unit, source, skips)
    else:
        with graph.graph.inserting_before(reader):  # what the node holds may change in place
            scaled = graph.graph.call_function(aten.mul.Tensor, (node, unit))
            scaled.meta = dict(node.meta)
        reader.replace_input_with(node, scaled)


def _tensors_only(node: fx.Node) -> bool:
    """The arguments that carry the factor are tensors (x + 1 would not commute with it)."""
    arguments = node.args[: _LINEAR[node.target]]  # type: ignore[index]
    return all(isinstance(argument, fx.Node) for argument in arguments)


# Arithmetic with a constant, such as a mean colour, is no layer: at the ends it stays in float32.
_ARITHMETIC = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)


def halve(graph: fx.GraphModule) -> int:
    """Turn everything between the first and the last layer into float16, in place.

    What comes before the first operation with parameters (scaling, the gradient operator, whose
    1e-6 is subnormal in float16) and after the last one (image skip, rounding) stays float32.
    Returns the number of operations that run in float16.
    """
    nodes = list(graph.graph.nodes)
    parameters = [node for node in nodes if node.op == "get_attr" and node.users]
    layers = [n for p in parameters for n in p.users if n.target not in _ARITHMETIC]
    after = _reachable(layers, lambda node: list(node.users))
    before = _reachable(layers, lambda node: node.all_input_nodes)
    inside = (after & before) | set(layers)
    halved = sum(_is_real(node) for node in inside)
    for node in parameters:
        value: Tensor = operator.attrgetter(str(node.target))(graph)
        if value.is_floating_point() and inside.issuperset(node.users):
            _assign(graph, node, value.half())
            inside.add(node)
    casts: dict[tuple[fx.Node, torch.dtype], fx.Node] = {}
    for node in nodes:
        if node.op in ("placeholder", "get_attr"):
            continue
        dtype = torch.float16 if node in inside else torch.float32
        for argument in node.all_input_nodes:
            given = torch.float16 if argument in inside else torch.float32
            if given is dtype or not _is_real(argument):
                continue
            if (argument, dtype) not in casts:
                with graph.graph.inserting_after(argument):
                    cast = graph.graph.call_function(
                        aten._to_copy.default, (argument,), {"dtype": dtype}
                    )
                casts[argument, dtype] = cast
            node.replace_input_with(argument, casts[argument, dtype])
    _clean(graph)
    return halved


def _is_real(node: fx.Node) -> bool:
    """One tensor of real numbers: no index, mask or size, and no tuple."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _reachable(start: list[fx.Node], step: Callable[[fx.Node], list[fx.Node]]) -> set[fx.Node]:
    """Nodes that one or more steps lead to."""
    seen: set[fx.Node] = set()
    ahead = [following for node in start for following in step(node)]
    while ahead:
        node = ahead.pop()
        if node not in seen and node.op == "call_function":
            seen.add(node)
            ahead += step(node)
    return seen


def _clean(graph: fx.GraphModule) -> None:
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()


def _fold(
    graph: fx.GraphModule,
    affine_of: Callable[[fx.GraphModule, fx.Node], tuple[Tensor, Tensor] | None],
) -> int:
    """Fold y = scale * conv(x) + shift, per output channel, into the convolution."""
    count = 0
    for node in list(graph.graph.nodes):
        affine = affine_of(graph, node)
        if affine is None:
            continue
        convolution = node.args[0]
        _scale_convolution(graph, convolution, *affine)
        node.replace_all_uses_with(convolution)
        graph.graph.erase_node(node)
        count += 1
    return count


def _scale_of(graph: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor] | None:
    """conv * number: the residual scale of dense blocks."""
    if node.op != "call_function" or node.target not in (aten.mul.Tensor, aten.mul.Scalar):
        return None
    convolution, number = node.args[:2]
    if not isinstance(number, (int, float)) or not _is_private(convolution):
        return None
    return torch.tensor(float(number), dtype=torch.float64), torch.zeros((), dtype=torch.float64)


def _batch_norm_of(graph: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor] | None:
    """conv followed by batch normalisation in eval mode."""
    if node.op != "call_function" or node.target is not aten.batch_norm.default:
        return None
    convolution, weight, bias, mean, variance, training, _, eps = node.args[:8]
    if training or not _is_private(convolution):
        return None
    mean, variance = _constant(graph, mean), _constant(graph, variance)
    if mean is None or variance is None:
        return None
    gain = _constant(graph, weight)
    offset = _constant(graph, bias)
    scale = torch.ones_like(mean) if gain is None else gain
    scale = scale / torch.sqrt(variance + float(eps))  # type: ignore[arg-type]
    shift = (torch.zeros_like(mean) if offset is None else offset) - mean * scale
    return scale, shift


def _is_private(node: Any) -> bool:
    """A convolution whose result and whose parameters nobody else uses."""
    if not isinstance(node, fx.Node) or node.target not in _CONVOLUTIONS or len(node.users) != 1:
        return False
    return _has_private_parameters(node)


def _has_private_parameters(node: fx.Node) -> bool:
    parameters = [arg for arg in node.args[1:3] if isinstance(arg, fx.Node)]
    names = [arg.target for arg in parameters]
    readers = [n for n in node.graph.nodes if n.op == "get_attr" and n.target in names]
    return all(arg.op == "get_attr" for arg in parameters) and all(
        len(reader.users) == 1 for reader in readers
    )


def _constant(graph: fx.GraphModule, node: Any) -> Tensor | None:
    """The value of a parameter or buffer node as float64."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Tensor = operator.attrgetter(str(node.target))(graph)
    return value.detach().double()


def _scale_convolution(
    graph: fx.GraphModule,
    convolution: fx.Node,
    scale: Tensor,
    shift: Tensor,
    bias_scale: Tensor | None = None,
) -> None:
    """Replace a convolution's parameters in place: weight * scale, bias * scale + shift (or
    bias * bias_scale + shift)."""
    _, weight, *rest = convolution.args
    bias = rest[0] if rest else None
    old_weight, old_bias = _constant(graph, weight), _constant(graph, bias)
    assert isinstance(weight, fx.Node)
    assert old_weight is not None
    _assign(graph, weight, old_weight * scale.reshape(-1, 1, 1, 1))
    if old_bias is not None:
        assert isinstance(bias, fx.Node)
        _assign(graph, bias, old_bias * (scale if bias_scale is None else bias_scale) + shift)
    elif shift.any():
        name = f"{convolution.name}_folded_bias"
        dtype = operator.attrgetter(str(weight.target))(graph).dtype
        graph.register_parameter(name, nn.Parameter(shift.to(dtype), requires_grad=False))
        with graph.graph.inserting_before(convolution):
            node = graph.graph.get_attr(name)
        arguments = list(convolution.args) + [None] * (3 - len(convolution.args))
        arguments[2] = node
        convolution.args = tuple(arguments)


def _assign(graph: fx.GraphModule, node: fx.Node, value: Tensor) -> None:
    path, _, name = str(node.target).rpartition(".")
    owner = graph.get_submodule(path)
    old: Tensor = getattr(owner, name)
    setattr(
        owner,
        name,
        nn.Parameter(
            value.to(value.dtype if value.dtype is torch.float16 else old.dtype),
            requires_grad=False,
        ),
    )
