"""docs/init.md: its commands run on small files of those names, and its options are those of the command."""

import re
import shlex
from pathlib import Path

import pytest
from commands import run_here

DOCUMENT = (Path(__file__).parents[2] / "docs" / "init.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines() if line.startswith("bestow-edge")]


def test_commands_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from nemo_files import CACHE_AWARE, nemo_config, random_weights, write_nemo
    from tiny_llms import edit_json, make_llm

    monkeypatch.chdir(tmp_path)
    config = nemo_config(CACHE_AWARE)
    write_nemo(tmp_path / "speech.nemo", config, random_weights(config))
    make_llm(tmp_path / "my-llm", "qwen3-tied")
    edit_json(tmp_path / "my-llm" / "config.json", max_position_embeddings=512)
    ran = 0
    for command in commands():
        if any("/" in word for word in command):  # ids of the Hub: parsed, not downloaded
            code, _, err = run_here(capsys, *command, "--offline")
            assert (code, "no such file or folder, and not in the Hub's cache" in err) == (2, True), err
            continue
        code, _, err = run_here(capsys, *command)
        assert code == 0, err
        ran += 1
    assert ran == 5


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    _, shown, _ = run_here(capsys, "init", "--help")
    options = set(re.findall(r"--[a-z]+(?:-[a-z]+)*", shown)) - {"--help"}
    assert options <= set(re.findall(r"--[a-z]+(?:-[a-z]+)*", DOCUMENT))
