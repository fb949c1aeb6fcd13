"""Captions from a server, over a WebSocket: a recording is sent in real time, and its texts come back.

    bestow-edge serve &
    python examples/stream_client.py [FILE [PAIRS [URL]]]

Expected output for examples/audio/digits_en.wav: `en-en: nine`, `en-de: neun` and so on, a line for each piece of text.
Needs: pip install 'bestow-edge[cpu,server]'
"""

import asyncio
import json
import sys
from pathlib import Path

import websockets

import bestow_edge as be

RECORDING = Path(__file__).parent / "audio" / "digits_en.wav"
RATE_HZ, BLOCK = 16000, 1280  # 80 ms


async def send(socket: websockets.ClientConnection, file: str) -> None:
    """Send a recording as a microphone would."""
    waveform = be.read_audio(file, RATE_HZ)
    for start in range(0, len(waveform), BLOCK):
        await socket.send(waveform[start : start + BLOCK].tobytes())
        await asyncio.sleep(BLOCK / RATE_HZ)
    await socket.send(json.dumps({"event": "end"}))


async def main(file: str = str(RECORDING), pairs: str = "en-en,en-de", url: str = "ws://127.0.0.1:8000") -> None:
    """Send and print side by side."""
    async with websockets.connect(f"{url}/v1/stream") as socket:
        await socket.send(json.dumps({"lang": pairs, "rate": RATE_HZ, "format": "float32"}))
        sending = asyncio.create_task(send(socket, file))
        async for message in socket:
            event = json.loads(message)
            if event["event"] == "text":
                print(f"{event['lang']}:{event['text']}", flush=True)
            elif event["event"] == "error":
                sys.exit(event["message"])
        await sending


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:4]))
    except (OSError, be.BestowEdgeError) as error:
        sys.exit(str(error))
