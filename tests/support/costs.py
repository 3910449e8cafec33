"""What an operation on a mount costs, in requests to its server."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.mounting import Mount


def cost(mount: Mount, operation: Callable[[], object]) -> dict[str, int]:
    """The requests that an operation makes, without those of asking."""
    before = mount.requests()
    idle = difference(before, before := mount.requests())
    operation()
    return difference(idle, difference(before, mount.requests()))


def warm_cost(mount: Mount, operation: Callable[[], object]) -> dict[str, int]:
    """The least that an operation costs when it is repeated. The kernel may drop a page at any time and read it again;
    what must be asked for each time cannot hide from this."""
    return min((cost(mount, operation) for _ in range(4)), key=lambda spent: sum(spent.values()))


def difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """What was added, of each kind that anything was added of."""
    names = before.keys() | after.keys()
    found = {name: after.get(name, 0) - before.get(name, 0) for name in sorted(names)}
    return {name: number for name, number in found.items() if number}
