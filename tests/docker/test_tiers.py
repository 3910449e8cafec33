"""The other tiers of tests, inside the image."""

from __future__ import annotations

import pytest

from tests.docker.engine import FUSE, LONG_S, Engine


@pytest.mark.parametrize("tier", ["unit", "protocol", "mounted"])
def test_all_of_a_tier_passes_inside_the_image(engine: Engine, test_image: str, tier: str) -> None:
    done = engine.run(
        *FUSE,
        test_image,
        "python",
        "-m",
        "pytest",
        "--require-fuse",
        "-q",
        f"tests/{tier}",
        check=False,
        timeout=LONG_S,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    closing = done.stdout.splitlines()[-1]
    assert " passed" in closing
    assert "skipped" not in closing
