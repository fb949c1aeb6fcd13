"""Makes docs/server.png: the server's page in a browser that hears two example recordings.

python docs/server_picture.py        # needs Chromium and the extra server
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from chromium import chromium  # noqa: E402 - of the tests
from served import AUDIO, served  # noqa: E402 - of the tests

import bestow_edge as be  # noqa: E402 - sorted behind those

RATE_HZ = 16000


def main() -> None:
    """Write the picture."""
    pause = np.zeros(2 * RATE_HZ, np.float32)
    spoken = [be.read_audio(AUDIO / name, RATE_HZ) for name in ("digits_en_48k_stereo.flac", "digits_en.wav")]
    with tempfile.TemporaryDirectory() as folder, served() as server:
        recording = Path(folder) / "person.wav"
        soundfile.write(recording, np.concatenate([pause, spoken[0], pause, spoken[1]]), RATE_HZ)
        with chromium(server.url, recording, Path(folder) / "profile") as page:
            page.size(1000, 520)
            page.wait("document.getElementById('status')?.textContent === 'Ready.'")
            page.value("document.getElementById('toggle').click()")
            page.wait("document.querySelector('#second-text .written').textContent.includes('sieben null')")
            page.screenshot(ROOT / "docs" / "server.png")


if __name__ == "__main__":
    main()
