"""Makes docs/overlay.png: the overlay of examples/ on a virtual screen, with a German sentence in two languages.

python docs/overlay_picture.py        # needs Xvfb, tkinter and Pillow
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from PIL import ImageGrab

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "examples")]

from caption_overlay import Overlay  # noqa: E402 - of the examples
from displays import virtual_screen  # noqa: E402 - of the tests

import bestow_edge as be  # noqa: E402 - sorted behind those

SENTENCE = "examples/audio/sentence_de.ogg"
MARGIN = 16  # pixels of the screen around the window


def main() -> None:
    """Write the picture."""
    os.chdir(ROOT)  # the menu of devices has the name of the file
    with virtual_screen() as display:
        os.environ["DISPLAY"] = display
        overlay = Overlay(be.load("people"), SENTENCE, "de-de,de-en")
        window = overlay.window
        while overlay.hearing.is_alive() or not overlay.hearing.texts.empty():
            window.update()
            time.sleep(0.01)
        window.update()
        left, top, width, height = window.winfo_x(), window.winfo_y(), window.winfo_width(), window.winfo_height()
        picture = ImageGrab.grab(
            (left - MARGIN, top - MARGIN, left + width + MARGIN, top + height + MARGIN), xdisplay=display
        )
        picture.save(ROOT / "docs" / "overlay.png", optimize=True)
        overlay.close()


if __name__ == "__main__":
    main()
