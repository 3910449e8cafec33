"""The other tiers of tests, inside the image: all that is promised of a mount, with the image's own Python and kernel.

Left out are mounted tests of what is not the image's: helpers, namespaces and Pythons that tests change, storage that
hangs, and crashes that are looked into with rights that a container lacks.
"""

from __future__ import annotations

import pytest

from tests.docker.engine import FUSE, Engine

#: Seconds; half of it is usual.
TIER_S = 1200
MOUNTED = (
    *("contract", "dedup", "dedup_work", "io", "posix", "problems"),
    *("python", "requests", "stack", "tools"),
)
TIERS: dict[str, list[str]] = {
    "unit": ["tests/unit"],
    "protocol": ["tests/protocol"],
    "mounted": [f"tests/mounted/test_{name}.py" for name in MOUNTED],
}


@pytest.mark.timeout(TIER_S + 60, method="thread")
@pytest.mark.parametrize("tier", TIERS)
def test_all_of_a_tier_passes_inside_the_image(engine: Engine, test_image: str, tier: str) -> None:
    done = engine.run(
        *FUSE,
        test_image,
        "python",
        "-m",
        "pytest",
        "--require-fuse",
        "-q",
        *TIERS[tier],
        check=False,
        timeout=TIER_S,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    closing = done.stdout.splitlines()[-1]
    assert " passed" in closing
    assert "skipped" not in closing
