"""Shell completion, as a shell asks for it."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("words", "completed"), [("ver", ["verify"]), ("re", ["replay", "report"]), ("mic --mic-d", ["--mic-device"])]
)
def test_commands_and_options_are_completed(words: str, completed: list[str]) -> None:
    asked = {"COMP_WORDS": f"bestow-edge {words}", "COMP_CWORD": str(len(words.split()))}
    env = os.environ | asked | {"_BESTOW_EDGE_COMPLETE": "complete_bash"}
    command = [sys.executable, "-m", "bestow_edge"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == completed
