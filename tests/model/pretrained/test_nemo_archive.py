"""`.nemo` archives: nothing in them is run or followed, damage is named."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
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


def packed(weights: Any) -> bytes:
    file = io.BytesIO()
    torch.save(weights, file)
    return file.getvalue()


def compressed(content: bytes) -> bytes:
    """Return a zip file whose members are compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return file.getvalue()


def changed(edit: Callable[[dict[str, Any]], object]) -> bytes:
    weights = random_weights(nemo_config(CACHE_AWARE))
    edit(weights)
    return packed(weights)


LINEAR = "encoder.pre_encode.out.weight"
WEIGHT_FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "int8": (
        lambda: changed(lambda weights: weights.update({LINEAR: weights[LINEAR].char()})),
        "weight int8; expected",
    ),
    "float64": (lambda: changed(lambda weights: weights.update({LINEAR: weights[LINEAR].double()})), "weight float64"),
    "sparse": (lambda: changed(lambda weights: weights.update({LINEAR: weights[LINEAR].to_sparse()})), "sparse_coo"),
    "NaN": (lambda: changed(lambda weights: weights[LINEAR].fill_(float("nan"))), "NaN or infinite values: subs"),
    "infinite": (lambda: changed(lambda weights: weights[LINEAR].fill_(float("inf"))), "NaN or infinite values: subs"),
    "one number for all": (
        lambda: changed(lambda weights: weights.update({LINEAR: torch.zeros(1).expand(weights[LINEAR].shape)})),
        "weights with fewer numbers than their shape has: subsampling",
    ),
    "list": (lambda: packed([torch.zeros(1)]), "no state dict of tensors"),
    "numbers": (lambda: packed({1: torch.zeros(1)}), "no state dict of tensors"),
    "zip bomb": (lambda: compressed(packed({"x": torch.zeros(10_000_000)})), "bytes in a file of"),
    "text": (lambda: b"no pickle", r"model_weights\.ckpt"),
}


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_weights_that_are_none(tmp_path: Path, fault: str) -> None:
    content, message = WEIGHT_FAULTS[fault]
    config = yaml.safe_dump(nemo_config(CACHE_AWARE)).encode()
    pack(tmp_path / "m.nemo", {"model_config.yaml": config, "model_weights.ckpt": content()})
    with pytest.raises(CheckpointError, match=message):
        nemo_encoder(tmp_path / "m.nemo")


LAUGHS = b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (level, level, b", ".join([b"*a%d" % (level - 1)] * 9)) for level in range(1, 12)
)
CONFIG_FAULTS: dict[str, tuple[bytes, str]] = {
    "list": (b"[1]", "holds list, expected a mapping"),
    "open brackets": (b"a: " + b"[" * 5000, "is not plain YAML"),
    "deep": (b"a: " + b"[" * 100 + b"]" * 100, "nested deeper than 30 levels"),
    "no UTF-8": (b"\xff\xfe\xfa", "is not plain YAML"),
    "laughs": (LAUGHS, "more than 2000000 values"),
    "merge keys": (b"a: &a {x: 1}\nb: {<<: *a}\n", "is not plain YAML"),
    "long number": (b"a: " + b"9" * 5000, "is not plain YAML"),
    "many bits": (b"a: 99999999999999999999", "a number of at most 64 bits"),
    "no number": (b"a: .nan", "a number of at most 64 bits"),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_configs_that_are_none(tmp_path: Path, fault: str) -> None:
    content, message = CONFIG_FAULTS[fault]
    pack(tmp_path / "m.nemo", {"model_config.yaml": content, "model_weights.ckpt": b""})
    with pytest.raises(BestowEdgeError, match=message):
        nemo_encoder(tmp_path / "m.nemo")


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_compressed_bombs(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "m.nemo"
    with tarfile.open(path, f"w:{suffix}") as archive:
        member = tarfile.TarInfo("model_weights.ckpt")
        member.size = 30_000_000
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(CheckpointError, match=r"it unpacks to more than .* bytes, which weights do not"):
        nemo_encoder(path)


def test_sparse_and_double_members(tmp_path: Path) -> None:
    path = tmp_path / "m.nemo"
    for kind in (tarfile.GNUTYPE_SPARSE, tarfile.LNKTYPE, tarfile.CHRTYPE):
        odd = tarfile.TarInfo("model_weights.ckpt")
        odd.type, odd.linkname = kind, "model_config.yaml"
        pack(path, {"model_config.yaml": b"{}", "model_weights.ckpt": odd})
        with pytest.raises(CheckpointError, match=r"m\.nemo: "):
            nemo_encoder(path)
    pack(path, {"model_config.yaml": b"{}", "./model_config.yaml": b"{}", "model_weights.ckpt": b""})
    with pytest.raises(CheckpointError, match="is there twice or is no plain file"):
        nemo_encoder(path)
    pack(path, {"/model_config.yaml": b"{}", "../model_weights.ckpt": b""})
    with pytest.raises(CheckpointError, match=r"holds no model_config\.yaml and no model_weights\.ckpt"):
        nemo_encoder(path)


def test_a_member_is_missing(tmp_path: Path) -> None:
    pack(tmp_path / "m.nemo", {"model_config.yaml": b"{}", "mp_rank_00/model_weights.ckpt": b""})
    with pytest.raises(CheckpointError, match=r"holds no model_weights\.ckpt; NeMo's save_to writes both"):
        nemo_encoder(tmp_path / "m.nemo")
