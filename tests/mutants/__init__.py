"""Tests of the tests: each check that guards access is taken out of a copy of symfuse, and some test must notice."""
