"""`.nemo` archives: nothing in them is run or followed, damage is named."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
from nemo_files import CACHE_AWARE, nemo_config, random_weights, write_nemo

from bestow_edge.core.errors import BestowEdgeError, CheckpointError
from bestow_edge.model.pretrained.nemo import nemo_encoder


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = nemo_config(CACHE_AWARE)
    path = write_nemo(tmp_path / "m.nemo", config, random_weights(config) | {"evil": Evil()})
    with pytest.raises(CheckpointError, match=r"model_weights\.ckpt holds more than tensors"):
        nemo_encoder(path)
    members = {"model_config.yaml": b"!!python/object/apply:os.mkdir [owned]", "model_weights.ckpt": b""}
    pack(path, members)
    with pytest.raises(CheckpointError, match="not plain YAML"):
        nemo_encoder(path)
    pack(path, {"model_config.yaml": b"{}", "model_weights.ckpt": pickle.dumps(Evil(), protocol=2)})
    with pytest.raises(CheckpointError, match=r"model_weights\.ckpt"):
        nemo_encoder(path)
    assert not (tmp_path / "owned").exists()


def pack(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_links_and_foreign_paths_are_not_followed(tmp_path: Path) -> None:
    link = tarfile.TarInfo("model_config.yaml")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = tmp_path / "m.nemo"
    pack(path, {"model_weights.ckpt": b"", "../escaped": b"x", "model_config.yaml": link})
    with pytest.raises(CheckpointError, match=r"model_config\.yaml is there twice or is no plain file"):
        nemo_encoder(path)
    assert not (tmp_path.parent / "escaped").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .nemo file, or a damaged one"),
        (b"no archive at all" * 100, "not a .nemo file, or a damaged one"),
        (b"\x1f\x8b\x08\x00broken gzip", "not a .nemo file, or a damaged one"),
    ],
)
def test_no_archive(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.nemo"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        nemo_encoder(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_truncated_files(tmp_path: Path, share: float, compressed: bool) -> None:
    config = nemo_config(CACHE_AWARE)
    path = write_nemo(tmp_path / "m.nemo", config, random_weights(config), compressed=compressed)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(BestowEdgeError, match=r"m\.nemo: "):
        nemo_encoder(path)


def test_a_member_is_missing(tmp_path: Path) -> None:
    pack(tmp_path / "m.nemo", {"model_config.yaml": b"{}", "mp_rank_00/model_weights.ckpt": b""})
    with pytest.raises(CheckpointError, match=r"holds no model_weights\.ckpt; NeMo's save_to writes both"):
        nemo_encoder(tmp_path / "m.nemo")
