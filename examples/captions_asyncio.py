"""Captions in an asyncio program: the event loop stays free while a thread computes.

    python examples/captions_asyncio.py [FILE [SOURCE [TARGET]]]

A file is fed in real time, as a web socket or a call would do it. Expected output for examples/audio/digits_en.wav: the
German words one by one over four seconds, then how late the last one was. Needs: pip install 'bestow-edge[cpu]'
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


async def play(waveform: npt.NDArray[np.float32], rate_hz: int, live: be.LiveSession) -> float:
    """Feed a recording at the speed of a microphone and return when it ended; 30 s in arrears would be an error."""
    start_s, size = time.monotonic(), round(BLOCK_S * rate_hz)
    for start in range(0, len(waveform), size):
        await asyncio.sleep(start_s + (start + size) / rate_hz - time.monotonic())
        live.feed(waveform[start : start + size])
    live.finish()
    return time.monotonic()


async def caption(live: be.LiveSession) -> None:
    """Print what the session writes until its last event."""
    async for event in live:
        print(event.text, end="", flush=True)


async def main(file: str = str(RECORDING), source: str = "en", target: str = "de") -> None:
    """Run player and captions side by side."""
    model = be.load("demo")
    waveform = be.read_audio(file, model.sample_rate_hz)
    with be.LiveSession(model.session(source=source, target=target)) as live:
        ended_s, _ = await asyncio.gather(play(waveform, model.sample_rate_hz, live), caption(live))
    print(f"\ndone {time.monotonic() - ended_s:.1f} s after the recording ended")


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:4]))
    except be.BestowEdgeError as error:
        sys.exit(str(error))
