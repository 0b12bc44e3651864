"""Which plan is built: by what was asked for, and by what the machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from srtool.errors import UsageError
from srtool.export.tensorrt.gpus import targets_from_texts
from srtool.export.tensorrt.recipe import (
    PlanOptions,
    check_recipe,
    plans_of,
    precision_from_recipe,
    profile_from_text,
    recipe_for_network,
    recipe_from_options,
)
from srtool.manifest import DEFAULT_PROFILE, DEFAULT_PROFILES, ModelFacts, PlanRecipe, Profile
from srtool.runtime.gpu.machine import Library, Machine

TRT, RTX = Library("tensorrt", "10.9.0.34", 12), Library("tensorrt-rtx", "1.7.1.116", 13)
ADA = ("NVIDIA GeForce RTX 4090", "8.9", "580.65.06")
HOPPER = ("NVIDIA H100 80GB HBM3", "9.0", "580.65.06")
FACTS = {"scale": 4, "io": "uint8", "precision": "fp16", "architecture": "", "halo": 4}
PASCAL = ("NVIDIA GeForce GTX 1080 Ti", "6.1", "580.65.06")


def machine(gpu: tuple[str, ...] = (), *libraries: Library) -> Machine:
    return Machine(*gpu, libraries={item.flavour: item for item in libraries})  # type: ignore[arg-type]


def _rtx(**options: Any) -> PlanOptions:
    return PlanOptions(flavour="tensorrt-rtx", **options)


def recipe(options: PlanOptions, here: Machine) -> PlanRecipe | None:
    return recipe_from_options(options, here)


@pytest.mark.parametrize(
    ("options", "here", "flavour"),
    [
        # Nothing is asked for.
        (PlanOptions(), machine(), None),
        (PlanOptions(), machine((), RTX), None),
        (PlanOptions(), machine(ADA), None),
        (PlanOptions(), machine(ADA, RTX), "tensorrt-rtx"),
        (PlanOptions(), machine(ADA, TRT, RTX), "tensorrt"),
        (PlanOptions(), machine(HOPPER, RTX), None),
        (PlanOptions(), machine(HOPPER, TRT, RTX), "tensorrt"),
        (PlanOptions(), machine(PASCAL, TRT, RTX), None),
        (PlanOptions(flavour="none"), machine(ADA, TRT), None),
        # A GPU is.
        (PlanOptions(gpu=("sm89",)), machine((), RTX), "tensorrt-rtx"),
        (PlanOptions(gpu=("RTX 3090",)), machine(ADA, TRT, RTX), "tensorrt-rtx"),
        (PlanOptions(gpu=("RTX 4090",)), machine(ADA, TRT, RTX), "tensorrt"),
        (PlanOptions(gpu=("local",)), machine(ADA, TRT), "tensorrt"),
        # A flavour is.
        (_rtx(), machine(ADA, TRT, RTX), "tensorrt-rtx"),
        (
            _rtx(gpu=("sm75", "sm120")),
            machine((), RTX),
            "tensorrt-rtx",
        ),
        (PlanOptions(flavour="tensorrt"), machine(ADA, TRT, RTX), "tensorrt"),
    ],
)
def test_which_flavour(options: PlanOptions, here: Machine, flavour: str | None) -> None:
    found = recipe(options, here)
    assert (found and found.flavour) == flavour
    if found:
        assert found.gpus == (options.gpu or ("local",))
        assert found.profiles == ()  # those that suit the network, once it is known


@pytest.mark.parametrize(
    ("changes", "shapes"),
    [
        ({}, [str(profile) for profile in DEFAULT_PROFILES]),
        ({"batch": 1}, ["1x16x16,1x256x256,1x256x256"]),
        ({"batch": 1, "multiple_of": 64, "tile": 128}, ["1x64x64,1x128x128,1x128x128"]),
        ({"batch": 1, "minimum": 40, "multiple_of": 12}, ["1x48x48,1x252x252,1x252x252"]),
    ],
)
def test_shapes_that_suit_a_network(changes: dict[str, Any], shapes: list[str]) -> None:
    facts = ModelFacts.model_validate({**FACTS, **changes})
    found = recipe_for_network(PlanRecipe(flavour="tensorrt-rtx", profiles=()), facts, "x4.onnx")
    assert [str(profile) for profile in found.profiles] == shapes
    assert recipe_for_network(found, facts, "x4.onnx") == found  # what is recorded is asked again


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"batch": 1}, "one image"), ({"multiple_of": 3}, "of 3"), ({"minimum": 20}, "20 pixels")],
)
def test_shapes_that_a_network_does_not_take(
    complains: Any, changes: dict[str, Any], words: str
) -> None:
    facts = ModelFacts.model_validate({**FACTS, **changes})
    recipe = PlanRecipe(flavour="tensorrt-rtx", profiles=(DEFAULT_PROFILE,))
    with complains(UsageError, str(DEFAULT_PROFILE), "x4.onnx", words):
        recipe_for_network(recipe, facts, "x4.onnx")


@pytest.mark.parametrize(
    ("options", "here", "words"),
    [
        (
            _rtx(),
            machine(),
            ["TensorRT-RTX is not", "pip install", "rtx"],
        ),
        (
            PlanOptions(flavour="tensorrt"),
            machine(ADA),
            ["TensorRT is not installed", "srtool[gpu]"],
        ),
        (
            PlanOptions(flavour="tensorrt", gpu=("GTX 1080 Ti",)),
            machine(),
            ["not installed", "tensorrt==8.6.1.post1"],
        ),
        (_rtx(), machine((), RTX), ["local", "--gpu sm89"]),
        (PlanOptions(gpu=("local",)), machine((), RTX), ["local", "(--gpu)", "no NVIDIA GPU"]),
        (PlanOptions(gpu=("sm89",)), machine(), ["sm89", "(--gpu)", "pip install 'srtool[rtx]'"]),
        (PlanOptions(gpu=("sm90",)), machine((), RTX), ["sm90", "pip install 'srtool[gpu]'"]),
        (PlanOptions(shapes=("8x8,8x8,8x8",)), machine((), RTX), ["shapes", "--gpu sm89"]),
        (PlanOptions(shapes=("8x8",)), machine(ADA, RTX), ["8x8", "(--shapes)", "MIN,OPT,MAX"]),
        (PlanOptions(workspace=64), machine(ADA), ["no library", "srtool[rtx]"]),
        (
            PlanOptions(flavour="none", opt_level=0, strip_weights=True),
            machine(),
            ["opt level, strip weights", "(--flavour)"],
        ),
        (PlanOptions(gpu=("RTX 4900",)), machine((), RTX), ["RTX 4090"]),
    ],
)
def test_what_cannot_be_had(
    options: PlanOptions, here: Machine, words: list[str], complains: Any
) -> None:
    with complains(UsageError, *words):
        recipe(options, here)


def test_a_gpu_for_which_nothing_builds_is_mentioned() -> None:
    said: list[str] = []
    assert recipe_from_options(PlanOptions(), machine(HOPPER, RTX), said.append) is None
    assert len(said) == 1
    assert "H100" in said[0]
    assert "srtool[gpu]" in said[0]


def test_shapes() -> None:
    assert profile_from_text("64x48,128X96, 256x256") == Profile(
        min=(1, 64, 48), opt=(1, 128, 96), max=(1, 256, 256)
    )
    assert profile_from_text(str(DEFAULT_PROFILE)) == DEFAULT_PROFILE
    options = PlanOptions(
        flavour="tensorrt-rtx", gpu=("sm89",), shapes=("8x8,8x8,8x8", "2x9x9,2x9x9,4x9x9")
    )
    found = recipe(options, machine((), RTX))
    assert found is not None
    assert [profile.opt for profile in found.profiles] == [(1, 8, 8), (2, 9, 9)]


@pytest.mark.parametrize(
    "text", ["", "64", "64x64", "64x64,64x64", "axb,1x1,1x1", "1x1x1x1,1x1,1x1", "-1x1,1x1,1x1"]
)
def test_what_are_no_shapes(text: str, complains: Any) -> None:
    with complains(UsageError, f"{text}: expected MIN,OPT,MAX", "(--shapes)", str(DEFAULT_PROFILE)):
        profile_from_text(text)


@pytest.mark.parametrize("text", ["64x64,32x32,64x64", "0x8,8x8,8x8", "2x8x8,8x8,2x8x8"])
def test_shapes_that_do_not_grow(text: str, complains: Any) -> None:
    with complains(UsageError, text, "(--shapes)", "MIN <= OPT <= MAX"):
        profile_from_text(text)


def test_precision(complains: Any) -> None:
    pascal = machine(PASCAL, Library("tensorrt", "8.6.1", 12))
    local, ada = PlanRecipe(flavour="tensorrt"), machine(ADA, TRT)
    said: list[str] = []
    assert precision_from_recipe("auto", None, machine(), False, False) == "fp32"
    assert precision_from_recipe("both", None, machine(), False, False) == "both"
    assert precision_from_recipe("auto", local, ada, False, False, said.append) == "fp16"
    assert precision_from_recipe("auto", local, pascal, False, False, said.append) == "fp32"
    assert "GTX 1080 Ti" in said[1]
    assert "1/64" in said[1]
    assert precision_from_recipe("fp32", local, pascal, False, False) == "fp32"
    for asked in ("fp16", "both"):
        with complains(
            UsageError, f"{asked} for the", "(--precision)", "1/64", "GTX 1080 Ti", "--force"
        ):
            precision_from_recipe(asked, local, pascal, False, False)  # type: ignore[arg-type]
        assert precision_from_recipe(asked, local, pascal, False, True) == asked  # type: ignore[arg-type]


def test_which_plan_comes_of_which_file() -> None:
    x4, half = Path("out/x4.onnx"), Path("out/x4.fp16.onnx")
    plan = Path("out/x4.plan")
    assert plans_of(x4, True, "fp16") == {half: plan}
    assert plans_of(x4, True, "fp32") == {x4: plan}
    assert plans_of(x4, False, "fp16") == {x4: plan}
    assert plans_of(x4, False, "both") == {x4: plan, half: Path("out/x4.fp16.plan")}


# What a library has


def check(library: Library, gpus: str, here: Machine, cache: bool = False, **options: Any) -> None:
    names = tuple(gpus.split(","))
    targets = targets_from_texts(names, here)
    asked = PlanRecipe(flavour=library.flavour, gpus=names, **options)
    check_recipe(library, asked, targets, here, cache)


def test_what_each_library_builds() -> None:
    check(RTX, "sm80,sm86,sm89,sm120,sm121", machine((), RTX))
    check(RTX, "sm75", machine((), RTX))
    check(RTX, "portable", machine((), RTX))
    check(TRT, "local", machine(ADA, TRT), platform="windows")
    check(TRT, "local", machine(ADA, TRT), True, hardware_compatible=True, strip_weights=True)
    check(TRT, "RTX 4090", machine(ADA, TRT))
    old = Library("tensorrt", "8.6.1", 12)
    check(old, "local", machine(PASCAL, old), True, version_compatible=True)
    check(RTX, "sm89", machine(ADA, RTX), strip_weights=True)


@pytest.mark.parametrize(
    ("library", "gpus", "here", "options", "words"),
    [
        (
            RTX,
            "sm90",
            machine(),
            {},
            ["sm90", "sm75, sm80, sm86, sm89, sm120, sm121", "Hopper", "TensorRT 8.6 or newer"],
        ),
        (RTX, "GTX 1080 Ti", machine(), {}, ["6.1", "Pascal", "TensorRT 8.6.1"]),
        (TRT, "local", machine(PASCAL), {}, ["6.1", "8.6.1 at the latest"]),
        (TRT, "sm86", machine(ADA), {}, ["RTX 4090 (8.9)", "--flavour tensorrt-rtx", "rtx]"]),
        (TRT, "sm90", machine(), {}, ["machine that it runs on, which is none"]),
        (RTX, "sm89", machine(), {"cache": True}, ["--timing-cache"]),
        (RTX, "sm89", machine(), {"version_compatible": True}, ["--version-compatible"]),
        (RTX, "sm89", machine(), {"hardware_compatible": True}, ["--hardware-compatible"]),
        (RTX, "sm89", machine(), {"strip_weights": True}, ["--strip-weights", "with a GPU"]),
        (
            Library("tensorrt", "8.6.1"),
            "local",
            machine(ADA),
            {"strip_weights": True},
            ["--strip-weights", "8.6.1 has no such plans"],
        ),
        (
            TRT,
            "local",
            machine(("Tesla T4", "7.5", "580.1")),
            {"hardware_compatible": True},
            ["--hardware-compatible", "Ampere", "T4"],
        ),
        (RTX, "sm75,sm89", machine(), {}, ["sm75 and sm89", "one for each"]),
        (TRT, "portable", machine(ADA, TRT), {}, ["--gpu", "the machine that it runs on"]),
        (
            Library("tensorrt", "10.2.0"),
            "local",
            machine(ADA),
            {"platform": "windows"},
            ["windows", "(--platform)", "10.2.0", "10.3"],
        ),
        (Library("tensorrt", "9.2.0"), "local", machine(ADA), {}, ["9.2.0", "TensorRT 10"]),
        (Library("tensorrt-rtx", "2.0"), "sm89", machine(), {}, ["RTX 2.0", "TensorRT-RTX"]),
    ],
)
def test_what_they_do_not(
    library: Library,
    gpus: str,
    here: Machine,
    options: dict[str, Any],
    words: list[str],
    complains: Any,
) -> None:
    with complains(UsageError, *words):
        check(library, gpus, here, **options)
