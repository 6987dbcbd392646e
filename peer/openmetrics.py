"""Numbers of peers as OpenMetrics text, as Prometheus and its like read it.

Source: OpenMetrics 1.0 (https://prometheus.io/docs/specs/om/open_metrics_spec/).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, final

from topology import PeerId

CONTENT_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
"""Of the text, over HTTP."""

GAUGES: Final[Mapping[str, tuple[str, str]]] = {
    "objective_estimate": ("objective", "Estimate of the objective U of the whole network."),
    "objective_local": ("objective_local", "Objective g_i of the peer's own samples."),
    "residual": ("residual", "How far the peer is from a stationary point, or, where none is tracked, a fixed point."),
    "disagreement": ("disagreement", "Squared distance by which consensus moved the peer."),
    "validation_estimate": ("validation", "Estimate of the loss of all samples that are held out."),
    "alpha": ("alpha", "Step size."),
    "tau": ("tau", "Weight of the proximal term."),
}
"""What is shown as it is, by its name in metrics.jsonl: names and meanings there."""

COUNTERS: Final[Mapping[str, tuple[str, str, str]]] = {
    "bytes_sent": ("sent_bytes", "bytes", "Bytes sent."),
    "bytes_received": ("received_bytes", "bytes", "Bytes received."),
    "solve_s": ("solve_seconds", "seconds", "Time for minimizing surrogates."),
    "wait_s": ("wait_seconds", "seconds", "Time for which neighbors were waited for."),
}
"""What is added up: name, unit and meaning."""


@final
class Tally:
    """What peers have told of their rounds or wakings, added up.

    Parameters
    ----------
    run : str
        What tells the run from others.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._last: dict[PeerId, Mapping[str, Any]] = {}
        self._sums: dict[PeerId, dict[str, float]] = {}

    def add(self, peer: PeerId, line: Mapping[str, Any]) -> None:
        """One more line of a peer's metrics."""
        sums = self._sums.setdefault(peer, dict.fromkeys(COUNTERS, 0.0))
        for key in COUNTERS:
            sums[key] += line[key]
        self._last[peer] = line

    def text(self) -> str:
        """All of it."""
        return "".join(f"{line}\n" for line in (*self._lines(), "# EOF"))

    def _lines(self) -> Iterator[str]:
        last = dict(sorted(self._last.items()))
        rounds = {peer: line["iteration"] + 1 for peer, line in last.items()}
        yield from self._family("rounds", "counter", "", "Rounds or wakings that are over.", rounds)
        for key, (name, meaning) in GAUGES.items():
            yield from self._family(
                name, "gauge", "", meaning, {j: line[key] for j, line in last.items() if key in line}
            )
        for key, (name, unit, meaning) in COUNTERS.items():
            yield from self._family(name, "counter", unit, meaning, {peer: self._sums[peer][key] for peer in last})
        dropped = [(peer, cause, n) for peer, line in last.items() for cause, n in line.get("dropped", {}).items()]
        yield from _head("dropped_messages", "counter", "", "Messages that were dropped, by cause.")
        for peer, cause, n in dropped:
            yield f"next_peer_dropped_messages_total{{{self._labels(peer)},cause={_quoted(cause)}}} {_number(n)}"

    def _family(self, name: str, kind: str, unit: str, meaning: str, values: Mapping[PeerId, float]) -> Iterator[str]:
        yield from _head(name, kind, unit, meaning)
        ending = "_total" if kind == "counter" else ""
        for peer, value in values.items():
            yield f"next_peer_{name}{ending}{{{self._labels(peer)}}} {_number(value)}"

    def _labels(self, peer: PeerId) -> str:
        return f'run={_quoted(self._run)},peer="{peer}"'


def _head(name: str, kind: str, unit: str, meaning: str) -> Iterator[str]:
    yield f"# TYPE next_peer_{name} {kind}"
    if unit:
        yield f"# UNIT next_peer_{name} {unit}"
    yield f"# HELP next_peer_{name} {meaning}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0.0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(value)
