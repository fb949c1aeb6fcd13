"""Captions in an asyncio program: the event loop stays free while a thread computes.

    python examples/captions_asyncio.py [FILE [SOURCE [TARGET]]]

A file is played in real time into a queue, as a web socket or a call would fill it. Expected output for
examples/audio/digits_en.wav: the German words one by one over four seconds, then how late the last one was. Needs:
pip install 'bestow-edge[cpu]'
"""

import asyncio
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

import bestow_edge as be

RECORDING = Path(__file__).parent / "audio" / "digits_en.wav"
BLOCK_S = 0.08
Blocks = asyncio.Queue[npt.NDArray[np.float32] | None]


async def play(waveform: npt.NDArray[np.float32], rate_hz: int, blocks: Blocks) -> None:
    """Put a recording into the queue at the speed of a microphone; None ends it."""
    start_s, size = time.monotonic(), round(BLOCK_S * rate_hz)
    for start in range(0, len(waveform), size):
        await asyncio.sleep(start_s + (start + size) / rate_hz - time.monotonic())
        await blocks.put(waveform[start : start + size])
    await blocks.put(None)


async def caption(session: be.Session, blocks: Blocks) -> None:
    """Print what the session writes; only one thread at a time touches it."""
    while (block := await blocks.get()) is not None:
        for event in await asyncio.to_thread(session.feed, block):
            print(event.text, end="", flush=True)
    ended_s = time.monotonic()
    for event in await asyncio.to_thread(session.finish):
        print(event.text, end="", flush=True)
    print(f"\ndone {time.monotonic() - ended_s:.1f} s after the recording ended")


async def main(file: str = str(RECORDING), source: str = "en", target: str = "de") -> None:
    """Run player and captions side by side."""
    model = be.load()
    blocks: Blocks = asyncio.Queue()
    waveform = be.read_audio(file, model.sample_rate_hz)
    with model.session(source=source, target=target) as session:
        await asyncio.gather(play(waveform, model.sample_rate_hz, blocks), caption(session, blocks))


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:4]))
    except be.BestowEdgeError as error:
        sys.exit(str(error))
