"""Memory does not grow with the picture."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from kills import scene
from torture import MOST, memory


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_an_image_of_192_mb_is_made_in_less(tmp_path: Path, suffix: str) -> None:
    _, above, _ = memory(scene(tmp_path), (2000, 2000), suffix)
    assert 0 <= above <= MOST
