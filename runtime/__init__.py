"""Streaming runtime: a bundle, numpy and onnxruntime. Never imports torch, transformers, onnx, export or training."""

from bestow_edge.core.config import SegmentConfig
from bestow_edge.core.embedded import embedded_bundle
from bestow_edge.core.hotwords import Hotword
from bestow_edge.core.policy import AlignAtt, EveryStep, LocalAgreement, Offline, Policy, View, WaitK
from bestow_edge.core.prompts import Question
from bestow_edge.runtime.audio.files import open_audio, read_audio
from bestow_edge.runtime.live import LiveSession
from bestow_edge.runtime.model import Model, load, stream
from bestow_edge.runtime.stream.events import Event, SegmentEvent, TextEvent
from bestow_edge.runtime.stream.session import Session

__all__ = [
    "AlignAtt",
    "Event",
    "EveryStep",
    "Hotword",
    "LiveSession",
    "LocalAgreement",
    "Model",
    "Offline",
    "Policy",
    "Question",
    "SegmentConfig",
    "SegmentEvent",
    "Session",
    "TextEvent",
    "View",
    "WaitK",
    "embedded_bundle",
    "load",
    "open_audio",
    "read_audio",
    "stream",
]
