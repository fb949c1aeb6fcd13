"""bestow-edge: export BESTOW streaming speech LLMs to three ONNX graphs and run them without torch.

    import bestow_edge as be
    model = be.load()
    with model.session(source="en", target="de", k=3) as session:
        for event in session.feed(block): print(event.text, end="")

A name is imported at its first use, so that importing the package is fast.
"""

import os
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bestow_edge.core.errors import BestowEdgeError
    from bestow_edge.runtime import (
        AlignAtt,
        Event,
        EveryStep,
        Hotword,
        LiveSession,
        LocalAgreement,
        Model,
        Offline,
        Policy,
        Question,
        SegmentConfig,
        SegmentEvent,
        Session,
        TextEvent,
        View,
        WaitK,
        load,
        open_audio,
        read_audio,
        stream,
    )

__all__ = [
    "AlignAtt",
    "BestowEdgeError",
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
    "load",
    "open_audio",
    "read_audio",
    "stream",
]
__version__ = version("bestow-edge")

_HERE = os.path.dirname(__file__)  # noqa: PTH120 - pathlib would cost more than the rest of this file
if not os.path.isdir(os.path.join(_HERE, "runtime")):  # noqa: PTH112, PTH118
    # In a clone, export, runtime and training are beside this folder, not in it. Python started in the clone's root
    # finds this folder before an installed wheel, so the package also searches its parent folder.
    __path__.append(os.path.dirname(_HERE))  # noqa: PTH120


def __getattr__(name: str) -> Any:  # Any: type checkers read the imports above
    if name not in __all__:
        raise AttributeError(f"module 'bestow_edge' has no attribute {name!r}")
    return getattr(
        import_module("bestow_edge.core.errors" if name == "BestowEdgeError" else "bestow_edge.runtime"), name
    )
