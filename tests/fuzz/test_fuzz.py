"""A few damaged inputs of every kind, always the same ones. `python -m fuzz` tries many, see tests/fuzz/__main__.py."""

from pathlib import Path
from random import Random

import hypothesis
import pytest
from fuzz.harness import outcome
from fuzz.seeds import Seeds
from fuzz.targets import TARGETS
from hypothesis import strategies as st

FEWER = {"bundle": 10, "server": 12, "nemo": 12, "speech_manifest": 20, "checkpoint": 20, "trace": 20}
pytestmark = pytest.mark.skipif(not hasattr(Path, "hardlink_to"), reason="links files")


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_read_or_refused(
    name: str, tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    attempt = TARGETS[name](Seeds(tiny_checkpoint, tiny_bundle))
    kinds = []

    @hypothesis.settings(max_examples=FEWER.get(name, 40), derandomize=True, database=None)
    @hypothesis.given(st.randoms(use_true_random=False))
    def check(random: Random) -> None:
        kinds.append(outcome(attempt, random))

    check()
    assert "refused" in kinds
