"""One thread: networks this small lose more to waiting for a second one than it computes."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
