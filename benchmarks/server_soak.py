"""A server whose clients connect and die for an hour: memory, threads and open files must not grow.

    python benchmarks/server_soak.py [--minutes 60] [--clients 20] [--bundle demo] [--sessions 12] [--csv FILE]

Starts `bestow-edge serve`. In each round of a minute, the clients come within ten seconds. Each sends up to 6 s of the
example recordings in real time and ends in one of the ways of `WAYS`: it waits for its text, closes, resets its
connection within a frame, or never says anything. When the server has no session left, the figures of its process are
read from `/proc` (Linux). They have grown if the last quarter of the rounds has more than the second one: threads and
files by their maximum, memory by more than 3 % of its median. Exit code 1 if one has grown, if the server failed
inside, or if it does not stop well. Needs the extras `cpu` and `server`. Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import csv
import io
import json
import platform
import random
import re
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
import websockets
from rich.console import Console
from rich.table import Table
from server_load import BLOCK, RATE_HZ, recording, started

import bestow_edge as be

ROUND_S, ARRIVAL_S = 60.0, 10.0
PATIENCE_S = 120.0  # until the server has no session left
GROWN = 1.03
BLOCK_S = BLOCK / RATE_HZ
FORM = "multipart/form-data; boundary=soak"


@dataclass(frozen=True, slots=True)
class Sample:
    """The server's process after a round."""

    minute: float
    memory_mb: float
    threads: int
    files: int


async def send(socket: websockets.ClientConnection, audio: bytes) -> None:
    """Send audio in real time."""
    for start in range(0, len(audio), 2 * BLOCK):
        await socket.send(audio[start : start + 2 * BLOCK])
        await asyncio.sleep(BLOCK_S)


@asynccontextmanager
async def stream(address: str, audio: bytes) -> AsyncIterator[websockets.ClientConnection]:
    """Yield a stream that has sent its audio."""
    async with websockets.connect(f"ws://{address}/v1/stream?lang=en-en,en-de") as socket:
        await send(socket, audio)
        yield socket


@asynccontextmanager
async def realtime(address: str, audio: bytes) -> AsyncIterator[websockets.ClientConnection]:
    """Yield a session of OpenAI's API that has sent its audio, which it takes for audio of 24 kHz."""
    async with websockets.connect(f"ws://{address}/v1/realtime") as socket:
        for start in range(0, len(audio), 2 * BLOCK):
            piece = base64.b64encode(audio[start : start + 2 * BLOCK]).decode()
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": piece}))
            await asyncio.sleep(BLOCK_S)
        yield socket


async def ends(address: str, audio: bytes) -> str:
    """End the audio of a stream and wait for its text."""
    async with stream(address, audio) as socket:
        await socket.send('{"event": "end"}')
        return "text" if [json.loads(message) async for message in socket][-1]["event"] == "end" else "refused"


async def commits(address: str, audio: bytes) -> str:
    """Wait for the text of an item of OpenAI's API."""
    async with realtime(address, audio) as socket:
        await socket.send('{"type": "input_audio_buffer.commit"}')
        async for message in socket:
            if json.loads(message)["type"].endswith("completed"):
                return "text"
    return "refused"


async def closes(address: str, audio: bytes) -> str:
    """Close a stream in the middle."""
    async with stream(address, audio):
        return "left"


async def resets(address: str, audio: bytes) -> str:
    """Cut a stream within a frame."""
    async with stream(address, audio) as socket:
        socket.transport.write(b"\x82\xfe\x0a\x00\x00\x00")  # 2560 bytes would follow
        socket.transport.abort()
        return "left"


async def leaves(address: str, audio: bytes) -> str:
    """Cut a session of OpenAI's API within an item."""
    async with realtime(address, audio) as socket:
        socket.transport.abort()
        return "left"


async def says_nothing(address: str, _: bytes) -> str:
    """Wait until the server closes a stream without settings."""
    async with websockets.connect(f"ws://{address}/v1/stream") as socket:
        return "dropped" if "no message" in await socket.recv() else "refused"


async def uploads(address: str, audio: bytes) -> str:
    """Send a file and read its text."""
    reader, writer = await post(address, audio, 1.0)
    answer = await reader.read()
    writer.close()
    return "text" if answer.startswith(b"HTTP/1.1 200") else "refused"


async def breaks_off(address: str, audio: bytes) -> str:
    """Cut the connection in the middle of a file."""
    _, writer = await post(address, audio, 0.5)
    await asyncio.sleep(1.0)
    writer.transport.abort()
    return "left"


WAYS: tuple[Callable[[str, bytes], Awaitable[str]], ...] = (
    ends,
    commits,
    closes,
    resets,
    leaves,
    says_nothing,
    uploads,
    breaks_off,
)


async def post(address: str, audio: bytes, part: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send the first part of an upload."""
    file = io.BytesIO()
    soundfile.write(file, np.frombuffer(audio, "<i2"), RATE_HZ, format="WAV")
    head = b'--soak\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    body = head + file.getvalue() + b"\r\n--soak--\r\n"
    lines = [f"Host: {address}", "Connection: close", f"Content-Length: {len(body)}", f"Content-Type: {FORM}"]
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write("\r\n".join(["POST /v1/audio/transcriptions HTTP/1.1", *lines, "", ""]).encode())
    writer.write(body[: round(part * len(body))])
    return reader, writer


async def come(address: str, audio: bytes, chance: random.Random) -> str:
    """Be a client: one word for how it ended."""
    audio = audio[: 2 * BLOCK * chance.randint(6, len(audio) // (2 * BLOCK))]
    await asyncio.sleep(chance.uniform(0, ARRIVAL_S))
    try:
        return await chance.choice(WAYS)(address, audio)
    except websockets.ConnectionClosed:  # refused while it sent
        return "refused"
    except TimeoutError:  # of the handshake, on a machine that others use
        return "late"


async def soak(address: str, pid: int, minutes: float, clients: int) -> tuple[list[Sample], Counter[str]]:
    """Run rounds until the time is over; return what each left, and how the clients ended."""
    chance, ways, samples = random.Random(0), Counter[str](), []  # noqa: S311 - of clients
    start_s, audio = time.monotonic(), recording(6.0)
    while time.monotonic() < start_s + 60 * minutes:
        round_s = time.monotonic()
        ways.update(await asyncio.gather(*(come(address, audio, chance) for _ in range(clients))))
        while open_sessions(address):
            if time.monotonic() > round_s + ROUND_S + PATIENCE_S:
                sys.exit(f"{open_sessions(address):g} sessions are still open {PATIENCE_S:g} s after their clients")
            await asyncio.sleep(0.5)
        await asyncio.sleep(max(1.0, round_s + ROUND_S - time.monotonic()))
        samples.append(sample(pid, (time.monotonic() - start_s) / 60))
        print(samples[-1], file=sys.stderr, flush=True)
    return samples, ways


def figure(address: str, name: str) -> float:
    """Return the sum of a figure of the server over its labels."""
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[ {{]", line))


def open_sessions(address: str) -> float:
    """Return the number of sessions."""
    return figure(address, "bestow_edge_sessions_open")


def sample(pid: int, minute: float) -> Sample:
    """Read the figures of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    memory_mb = int(status["VmRSS"].split()[0]) / 1e3
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Sample(round(minute, 2), round(memory_mb, 1), int(status["Threads"]), files)


def grown(samples: list[Sample]) -> list[str]:
    """Return the names of the figures that have grown."""
    quarter = max(1, len(samples) // 4)
    before, after = samples[quarter : 2 * quarter] or samples[:1], samples[-quarter:]
    more = {
        "memory": median(one.memory_mb for one in after) > GROWN * median(one.memory_mb for one in before),
        "threads": max(one.threads for one in after) > max(one.threads for one in before),
        "files": max(one.files for one in after) > max(one.files for one in before),
    }
    return [name for name, found in more.items() if found]


def show(samples: list[Sample]) -> None:
    """Print about ten rows."""
    table = Table("minute", "memory, MB", "threads", "files")
    for one in samples[:: -max(1, len(samples) // 10)][::-1]:
        table.add_row(f"{one.minute:.0f}", f"{one.memory_mb:.1f}", str(one.threads), str(one.files))
    Console().print(table)


def main() -> int:
    """Run the benchmark and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=20, help="in each round")
    parser.add_argument("--bundle", default="demo")
    parser.add_argument("--sessions", type=int, default=12, help="places of the server, for fewer clients than come")
    parser.add_argument("--csv", type=Path, help="file for the figures of each round")
    args = parser.parse_args()
    with started(args.bundle, args.sessions) as (process, address):
        samples, ways = asyncio.run(soak(address, process.pid, args.minutes, args.clients))
        failures = figure(address, "bestow_edge_errors_total")
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    if args.csv is not None:
        with args.csv.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(field.name for field in fields(Sample))
            rows.writerows(map(astuple, samples))
    show(samples)
    result = {"clients": dict(ways), "grown": grown(samples), "failures": failures, "exit_code": code}
    run = {"benchmark": "server_soak", "minutes": args.minutes, "bundle": args.bundle, "first": asdict(samples[0])}
    machine = {"machine": platform.machine(), "version": be.__version__}
    print(json.dumps({**run, "last": asdict(samples[-1]), **result, **machine}))
    return 1 if result["grown"] or failures or code else 0


if __name__ == "__main__":
    sys.exit(main())
