"""What the test tiers share: tree literals, the `cp -rL` oracle, real mounts, an ordinary user."""
