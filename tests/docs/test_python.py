"""The complete programs of docs/python.md run as they are written."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_asyncio_program_prints_events_as_json() -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    (program,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "asyncio.run" in code]
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["segment-start", "segment-end"]
    assert "".join(event.get("text", "") for event in events).strip() == "nine one five seven zero"
