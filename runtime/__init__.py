"""Streaming runtime: a bundle, numpy and onnxruntime. Never imports torch, transformers, onnx, export or training."""

from bestow_edge.config import SegmentConfig
from bestow_edge.policy import AlignAtt, LocalAgreement, Offline, Policy, View, WaitK
from bestow_edge.prompts import Question
from bestow_edge.runtime.audio import read_audio
from bestow_edge.runtime.events import Event, SegmentEvent, TextEvent
from bestow_edge.runtime.live import LiveSession
from bestow_edge.runtime.model import Model, embedded_bundle, load, stream
from bestow_edge.runtime.session import Session

__all__ = [
    "AlignAtt",
    "Event",
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
    "read_audio",
    "stream",
]
