"""How many live streams one server keeps up with: WebSocket clients that send recordings in real time.

    python benchmarks/server_load.py [--bundle BUNDLE] [--streams 1,2,4,8] [--seconds 20] [--lang en-de] [--latency T]

Starts `bestow-edge serve` with one thread for each operator. Each client sends blocks of 80 ms of the English example
recordings, joined with pauses; clients begin at different moments. The lag of a text is the time from the arrival of
the block with which it came, at the server, to the end of its computing. `behind` is how long the last text came after
the end of the audio. A number of streams keeps up if the lag of 95 % of the text is below a second. Needs the extras
`cpu` and `server`. Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import websockets
from rich.console import Console
from rich.table import Table

import bestow_edge as be

AUDIO = Path(__file__).parents[1] / "examples" / "audio"
FILES = [AUDIO / "digits_en.wav", AUDIO / "digits_en_48k_stereo.flac"]
RATE_HZ, BLOCK = 16000, 1280
PAUSE_S = 1.5
KEEPS_UP_S = 1.0


@contextmanager
def started(bundle: str | None, sessions: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server and yield it with its host and port."""
    command = [sys.executable, "-m", "bestow_edge", "serve", "--port", "0", "--sessions", str(sessions)]
    command += [] if bundle is None else ["--bundle", bundle]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None  # noqa: S101 - it is a pipe
        found = next(filter(None, (re.search(r"http://(\S+);", line) for line in process.stderr)))
        showing = threading.Thread(target=sys.stderr.writelines, args=[process.stderr], daemon=True)
        showing.start()
        try:
            yield process, found[1]
        finally:
            process.terminate()
            showing.join()


def recording(seconds: float) -> bytes:
    """Return the files joined with pauses, over and over, as 16-bit samples."""
    pause = np.zeros(round(PAUSE_S * RATE_HZ), np.float32)
    joined = np.concatenate([part for path in FILES for part in (be.read_audio(path, RATE_HZ), pause)])
    return bytes((np.resize(joined, round(seconds * RATE_HZ)) * 32767).astype("<i2").tobytes())


async def client(url: str, audio: bytes, settings: dict[str, str], delay_s: float) -> tuple[list[float], float]:
    """Send audio in real time; return the lags of its text and how late the last event was, seconds."""
    await asyncio.sleep(delay_s)
    lags: list[float] = []
    async with websockets.connect(url) as socket:
        await socket.send(json.dumps(settings))

        async def send() -> float:
            started_s = time.monotonic()
            for number, start in enumerate(range(0, len(audio), 2 * BLOCK)):
                await asyncio.sleep(started_s + (number + 1) * BLOCK / RATE_HZ - time.monotonic())
                await socket.send(audio[start : start + 2 * BLOCK])
            await socket.send(json.dumps({"event": "end"}))
            return time.monotonic()

        sending = asyncio.create_task(send())
        async for message in socket:
            event = json.loads(message)
            if event["event"] == "error":
                sys.exit(event["message"])
            if event["event"] == "text":
                lags.append(event["lag_s"])
        return lags, time.monotonic() - await sending


async def load(url: str, number: int, audio: bytes, settings: dict[str, str]) -> tuple[list[float], float]:
    """Run clients at once; return all lags, and the longest time behind the end."""
    runs = [client(url, audio, settings, 1.0 * index / number) for index in range(number)]
    results = await asyncio.gather(*runs)
    return [lag for lags, _ in results for lag in lags], max(behind for _, behind in results)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle")
    parser.add_argument("--streams", default="1,2,4,8", help="numbers of streams, ascending")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each stream")
    parser.add_argument("--lang", default="en-de")
    parser.add_argument("--latency", help="delay such as 2.5s; default: the bundle's policy")
    args = parser.parse_args()
    settings = {"lang": args.lang} | ({"latency": args.latency} if args.latency else {})
    numbers = [int(number) for number in args.streams.split(",")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    table, rows = Table("streams", "lag p50, s", "lag p95, s", "behind, s", "keeps up"), []
    with started(args.bundle, max(numbers)) as (_, address):
        url = f"ws://{address}/v1/stream"
        asyncio.run(load(url, 1, recording(3.0), settings))  # warm-up
        for number in numbers:
            lags, behind = asyncio.run(load(url, number, recording(args.seconds), settings))
            p50, p95 = (float(np.percentile(lags, part)) for part in (50, 95))
            keeps_up = p95 < KEEPS_UP_S
            table.add_row(str(number), f"{p50:.3f}", f"{p95:.3f}", f"{behind:.2f}", "yes" if keeps_up else "no")
            figures = {"p50_s": round(p50, 3), "p95_s": round(p95, 3), "behind_s": round(behind, 2)}
            rows.append({"streams": number, **figures, "keeps_up": keeps_up})
    Console().print(table)
    run = {"benchmark": "server_load", "audio_s": args.seconds, **settings, "cores": cores}
    load_1 = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    print(
        json.dumps({**run, "streams": rows, "load": load_1, "machine": platform.machine(), "version": be.__version__})
    )


if __name__ == "__main__":
    main()
