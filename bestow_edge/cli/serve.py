"""`bestow-edge serve`: a server of many sessions on one loaded model."""

from __future__ import annotations

from typing import Annotated

import typer

from bestow_edge.cli import options
from bestow_edge.cli.show.console import needs_extra, say

DEFAULT_NAME = "bestow-edge"


Host = Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="Port; 0: a free one.")]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        envvar="BESTOW_EDGE_TOKEN",
        help="Secret that clients send as `Authorization: Bearer TOKEN`; needed for other addresses than loopback. "
        "The variable keeps it out of the list of processes.",
    ),
]
Origins = Annotated[
    list[str] | None,
    typer.Option(
        "--origin",
        metavar="URL",
        help="Other page that may use the server from a browser, or the public name behind a proxy; repeatable.",
    ),
]
Name = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Name of the model for clients; default: that of the bundle's folder."),
]
Sessions = Annotated[int, typer.Option("--sessions", min=1, metavar="N", help="Most live streams at once.")]
Files = Annotated[int, typer.Option("--files", min=1, metavar="N", help="Most uploaded files at once.")]
UploadMb = Annotated[float, typer.Option("--upload-mb", metavar="MB", help="Largest upload, MB.")]
Idle = Annotated[
    float, typer.Option("--idle", metavar="S", help="Seconds without a message after which a client is dropped.")
]
Threads = Annotated[
    int,
    typer.Option("--threads", min=0, metavar="N", help="CPU threads of a session's operators; 0: one for each core."),
]


def serve(
    bundle: options.Bundle = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token: Token = None,
    origin: Origins = None,
    name: Name = None,
    sessions: Sessions = 8,
    files: Files = 4,
    upload_mb: UploadMb = 100.0,
    idle: Idle = 60.0,
    device: options.Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Serve a page with live captions, OpenAI's API for audio and a WebSocket for streams.

    The page is at the address that is printed. It needs a browser with a microphone.
    OpenAI's clients use http://ADDRESS:PORT/v1: audio.transcriptions, audio.translations, realtime transcription.
    Every stream beyond --sessions, and every file beyond --files, is refused with a sentence.
    SIGTERM or Ctrl-C ends open streams after the rest of their text; a second Ctrl-C does not wait.
    The server has no TLS; put a proxy in front of it (docs/server.md).

    Examples:
      bestow-edge serve
      bestow-edge serve --port 9000 --sessions 4 --bundle my-bundle --name whisper-1
      curl -F file=@talk.wav -F model=bestow-edge http://127.0.0.1:8000/v1/audio/transcriptions
      BESTOW_EDGE_TOKEN=$(openssl rand -hex 32) bestow-edge serve --host 0.0.0.0
    """
    with needs_extra("server"):
        from bestow_edge.server import serving
        from bestow_edge.server.guard import Access
        from bestow_edge.server.hub import Hub
        from bestow_edge.server.limits import Limits
    from bestow_edge.runtime import load

    access = Access(host=host, token=token, origins=tuple(origin or ()))
    limits = Limits(sessions=sessions, files=files, upload_mb=upload_mb, idle_s=idle)
    model = load(options.chosen_bundle(bundle), device=device, threads=threads, ahead=False)
    hub = Hub(model, name=name or (DEFAULT_NAME if bundle is None else model.directory.resolve().name), limits=limits)
    shown = f"[{host}]" if ":" in host else host
    serving.serve(
        hub, access, port=port, started=lambda port: say(f"serving {hub.name} on http://{shown}:{port}; Ctrl-C stops")
    )
    say("stopped")
