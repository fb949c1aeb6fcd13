"""`examples/mini.yaml` loads, and trains a few steps on the recordings of the repository."""

from pathlib import Path

import pytest
import yaml
from commands import run_here

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "examples" / "mini.yaml"
AUDIO = ROOT / "tests" / "audio"


def test_it_loads(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_here(capsys, "train", RECIPE, "--data", AUDIO, "--dry-run")
    assert code == 0, err
    assert "Transcribe the English speech." in out


def test_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    values["model"]["encoder_from"] = str(ROOT / "examples" / values["model"]["encoder_from"])
    for stage in values["stages"]:
        stage |= {"steps": 2, "warmup_steps": 1, "batch_s": 4}
    recipe = tmp_path / "mini.yaml"
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    code, _, err = run_here(capsys, "train", recipe, "--data", AUDIO, "--out", tmp_path / "run")
    assert code == 0, err
    assert (tmp_path / "run" / "checkpoint").is_dir()
