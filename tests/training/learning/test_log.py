"""What is kept of a run's log when it is resumed."""

from pathlib import Path

from bestow_edge.training.learning.log import drop_records

RECORDS = ['{"stage": "a", "step": 1, "loss": NaN}', '{"stage": "b", "step": 9}']


def test_damaged_lines_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    odd = [b'{"stage": "a", "step": 2', b"[]", b'{"stage": "a", "step": "2"}', b"\xff", b"[" * 100_000]
    path.write_bytes(b"\n".join([*(record.encode() for record in RECORDS), *odd]))
    drop_records(path, "a", after=1)
    assert path.read_text(encoding="utf-8").splitlines() == RECORDS
