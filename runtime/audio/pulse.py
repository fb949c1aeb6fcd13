"""Monitors of PulseAudio and PipeWire: sources that hear what programs play. PortAudio does not list them on Linux."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bestow_edge.runtime.audio.microphone import Device

PORTAUDIO_NAME = "pulse"  # ALSA's plugin, which asks for the source that the environment names
VARIABLE = "PULSE_SOURCE"
PATIENCE_S = 5.0  # of a sound server that does not answer

logger = logging.getLogger(__name__)


def monitors(devices: Sequence[Device]) -> list[Device]:
    """Return a device for each monitor, none without ALSA's plugin, `pactl` and a sound server.

    Args:
        devices: those of PortAudio.
    """
    plugin = next((device for device in devices if device.name == PORTAUDIO_NAME), None)
    program = shutil.which("pactl")
    if plugin is None or program is None:
        return []
    command = [program, "--format=json", "list", "sources"]
    try:
        listed = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=True).stdout  # noqa: S603
        names = [source["name"] for source in json.loads(listed) if source["monitor_source"]]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        logger.debug("no monitors: pactl did not list sources (%s)", error)
        return []
    return [replace(plugin, name=name, host_api="PulseAudio", source=name, is_default=False) for name in names]


@contextmanager
def chosen_source(name: str) -> Iterator[None]:
    """Let ALSA's plugin open a source; an empty name changes nothing."""
    before = os.environ.get(VARIABLE)
    if name:
        os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if name:
            os.environ.pop(VARIABLE)
            os.environ |= {} if before is None else {VARIABLE: before}
