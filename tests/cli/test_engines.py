"""`bestow-edge engines`: build, list and prune, with the fake module and a GPU whose memory is the host's."""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import install_cuda
from fake_tensorrt import RTX, VERSIONS, fake_tensorrt

from bestow_edge.cli.main import main

Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where engines are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "bestow-edge" / "engines"


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with a GPU and TensorRT."""
    module = fake_tensorrt(VERSIONS[1])
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    install_cuda(monkeypatch)
    return module


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(["engines", *arguments])
    return int(done.value.code or 0)


def test_build_list_and_build_again(tensorrt_bundle: Path, trt: Any, store: Path, capsys: Printed) -> None:
    assert run("build", str(tensorrt_bundle), "--workspace-mb", "256") == 0
    out, err = capsys.readouterr()
    assert "encoder_chunk: Building Engine" in err
    assert out.count("fp16") == out.count("yes") == 3
    assert {config._limits[trt.MemoryPoolType.WORKSPACE] for config in trt._built} == {256 << 20}
    assert run("build", str(tensorrt_bundle), "--workspace-mb", "256", "--json") == 0
    out, err = capsys.readouterr()
    assert "all engines were there already" in err
    rows = json.loads(out)
    assert [row["key"]["graph"] for row in rows] == ["adapter_step", "encoder_chunk", "llm_step"]
    assert all(row["runs_here"] and Path(row["path"]).parent == store for row in rows)
    assert len(trt._built) == 3
    assert run("build", str(tensorrt_bundle), "--workspace-mb", "256", "--force") == 0
    assert len(trt._built) == 6


def test_list_and_prune(tensorrt_bundle: Path, trt: Any, store: Path, capsys: Printed) -> None:
    assert run("build", str(tensorrt_bundle)) == 0
    (adapter,) = store.glob("adapter_step-*.json")
    document = json.loads(adapter.read_text())
    document["key"]["machine"]["gpu"] = "Orin"
    adapter.write_text(json.dumps(document))
    (llm,) = store.glob("llm_step-*.json")
    llm.write_text("{")
    capsys.readouterr()
    assert run("list") == 0
    out = capsys.readouterr().out
    assert "Orin" in out
    assert "damaged" in out
    assert out.count("yes") == 1
    assert run("prune") == 0
    assert "2 engines deleted" in capsys.readouterr().out
    assert [path.name.partition("-")[0] for path in store.glob("*.engine")] == ["encoder_chunk"]
    assert run("prune", "--all") == 0
    assert not list(store.glob("*.engine"))
    assert trt._built


def test_engines_for_rtx_cards_go_into_the_bundle(
    tensorrt_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    module = fake_tensorrt(RTX)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)  # no GPU: nothing stands in for CUDA
    bundle = tmp_path / "bundle"
    shutil.copytree(tensorrt_bundle, bundle)
    assert run("build", str(bundle), "--rtx", "--for", "sm89,sm75") == 0
    out, err = capsys.readouterr()
    assert "llm_step: Building Engine" in err
    assert out.count("sm75, sm89") == 3
    assert run("build", str(bundle), "--rtx", "--for", "sm75,sm89", "--json") == 0
    assert json.loads(capsys.readouterr().out)["llm_step"]["library"] == RTX
    assert len(module._built) == 3
    assert run("build", str(bundle), "--rtx", "--force") == 0
    assert len(module._built) == 6
    with pytest.raises(SystemExit):
        main(["inspect", str(bundle)])
    assert "sm80, sm86, sm89, sm120, sm121" in " ".join(capsys.readouterr().out.split())
    assert run("build", str(bundle), "--rtx", "--for", "sm87") == 2
    assert "capability 'sm87': expected sm75" in capsys.readouterr().err


def test_a_bundle_for_the_cpu_has_no_engines(tiny_bundle: Path, trt: Any, capsys: Printed) -> None:
    assert run("build", str(tiny_bundle)) == 2
    assert "a bundle for cpu, and engines need standard operators; export" in capsys.readouterr().err
    assert not trt._built


def test_without_tensorrt(tensorrt_bundle: Path, capsys: Printed) -> None:
    if find_spec("tensorrt"):
        pytest.skip("TensorRT is installed")
    assert run("build", str(tensorrt_bundle)) == 2
    assert "tensorrt is not installed; run: pip install 'bestow-edge[tensorrt]'" in capsys.readouterr().err
    assert run("list") == 0
    assert "no engine runs on this machine: tensorrt is not installed" in capsys.readouterr().err
    assert run("prune") == 0
    assert "0 engines deleted" in capsys.readouterr().out
