"""What the server counts, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Metrics:
    """Counters of one server. `text` gives all of them."""

    def __init__(self) -> None:
        self._all = CollectorRegistry()
        self.answers = Counter(
            "srtool_answers", "Answers to /v1/upscale.", ["status"], registry=self._all
        )
        self.seconds = Histogram(
            "srtool_seconds",
            "Seconds that a picture spent in each stage.",
            ["engine", "stage"],
            buckets=SECONDS,
            registry=self._all,
        )
        self.pixels = Counter(
            "srtool_pixels", "Pixels of pictures done.", ["engine", "side"], registry=self._all
        )
        self.waiting = Gauge(
            "srtool_waiting", "Pictures that wait for their turn.", registry=self._all
        )
        self.working = Gauge("srtool_working", "Pictures that are worked on.", registry=self._all)
        ProcessCollector(registry=self._all)

    def text(self) -> bytes:
        return generate_latest(self._all)
