"""What was measured, as it goes into JSON and comes back, and the statistics that the table and the picture show."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass, field
from typing import Any

from scripts.benchmark.contenders import LINKS
from scripts.benchmark.rows import CONDITIONS, ROWS, Row

#: Goes up when the JSON changes in a way that an older reader would misunderstand.
FORMAT = 1


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, and the least and the greatest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: list[float]) -> Spread:
        """Errors: ValueError for no numbers at all."""
        if not numbers:
            raise ValueError("no numbers have no median")
        return cls(statistics.median(numbers), min(numbers), max(numbers))


def _spread(numbers: list[float]) -> Spread | None:
    return Spread.of(numbers) if numbers else None


@dataclass
class Results:
    """All samples of a run: by row and contender a list for each round, of as many samples as it had turns there."""

    about: dict[str, Any]
    contenders: list[str]
    missing: dict[str, str] = field(default_factory=dict)
    samples: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)
    #: Why a contender has no samples in a row.
    failed: dict[str, dict[str, str]] = field(default_factory=dict)
    #: Requests by opcode of the rows that count requests, and of how many files.
    requests: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    def add(self, key: str, contender: str, value: float, *, round_number: int) -> None:
        """One more sample, in the row's unit."""
        rounds = self.samples.setdefault(key, {}).setdefault(contender, [])
        rounds.extend([] for _ in range(round_number + 1 - len(rounds)))
        rounds[round_number].append(value)

    def fail(self, key: str, contender: str, reason: str) -> None:
        """No further sample will come."""
        self.failed.setdefault(key, {})[contender] = reason

    def rows(self) -> list[Row]:
        """The rows that hold anything, those of one condition together."""
        found = [row for key, row in ROWS.items() if self.samples.get(key) or self.failed.get(key)]
        return sorted(found, key=lambda row: CONDITIONS.index(row.condition))

    def value(self, key: str, contender: str) -> Spread | None:
        """What a contender took, in the row's unit; several turns in a round count as their median."""
        return _spread([median for median in self._medians(key, contender) if median is not None])

    def ratio(self, key: str, contender: str) -> Spread | None:
        """What a contender took, divided by what the links took in the same round.

        What the machine was busy with in a round happened to both.
        """
        pairs = zip(self._medians(key, contender), self._medians(key, LINKS), strict=False)
        return _spread([ours / base for ours, base in pairs if ours is not None and base is not None])

    def _medians(self, key: str, contender: str) -> list[float | None]:
        """By round; None where it had no turn."""
        rounds = self.samples.get(key, {}).get(contender, [])
        return [statistics.median(samples) if samples else None for samples in rounds]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the samples, and what follows from them so that no reader need know how."""
        return {
            "format": FORMAT,
            "about": self.about,
            "contenders": self.contenders,
            "missing": self.missing,
            "rows": [self._row(row) for row in self.rows()],
        }

    def _row(self, row: Row) -> dict[str, Any]:
        spreads = {name: self.value(row.key, name) for name in self.contenders}
        ratios = {} if row.absolute else {name: self.ratio(row.key, name) for name in self.contenders}
        return {
            **dataclasses.asdict(row),
            "samples": self.samples.get(row.key, {}),
            "failed": self.failed.get(row.key, {}),
            "requests": self.requests.get(row.key, {}),
            "values": {name: dataclasses.asdict(found) for name, found in spreads.items() if found},
            "ratios": {name: dataclasses.asdict(found) for name, found in ratios.items() if found},
        }

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Results:
        """What as_dict made. Errors: ValueError for another format."""
        if told.get("format") != FORMAT:
            raise ValueError(f"results of format {told.get('format')!r} instead of {FORMAT}")
        rows = {row["key"]: row for row in told["rows"]}

        def column(name: str) -> dict[str, Any]:
            return {key: row[name] for key, row in rows.items() if row[name]}

        return cls(
            about=told["about"],
            contenders=told["contenders"],
            missing=told["missing"],
            samples=column("samples"),
            failed=column("failed"),
            requests=column("requests"),
        )
