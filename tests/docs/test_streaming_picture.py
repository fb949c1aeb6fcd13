"""The picture in docs/streaming.md is what the script draws, and what a session does."""

import importlib.util
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bestow_edge.core.bundle import read_manifest
from bestow_edge.core.config import SegmentConfig
from bestow_edge.core.policy import Policy, visible_steps
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.stream.events import Decision

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def picture() -> ModuleType:
    spec = importlib.util.spec_from_file_location("streaming_picture", DOCS / "streaming_picture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module


def test_the_picture_is_up_to_date(picture: ModuleType) -> None:
    drawn = (DOCS / "streaming.svg").read_text(encoding="utf-8")
    assert drawn == picture.draw(), "run: python docs/streaming_picture.py"


def test_it_is_svg_that_needs_nothing_else(picture: ModuleType) -> None:
    root = ET.fromstring(picture.draw())  # noqa: S314 - our own text
    tags = {element.tag.removeprefix("{http://www.w3.org/2000/svg}") for element in root.iter()}
    assert tags == {"svg", "title", "desc", "rect", "path", "text"}
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {panel.title for panel in picture.PANELS} <= set(texts)
    assert texts.count("token 0") == len(picture.PANELS)


def attempts(model: Model, policy: Policy, lookahead: int, num_samples: int) -> Iterator[tuple[int, int]]:
    """Return for each answer token of a session the steps it saw and the steps that had been heard."""
    made: list[Decision] = []
    session = model.session(
        source="en", policy=policy, lookahead=lookahead, segments=SegmentConfig(pause_s=0, max_tokens=10)
    )
    session.on_decision = made.append
    noise = np.random.default_rng(0).standard_normal(num_samples).astype(np.float32)
    for block in np.split(noise, range(1280, num_samples, 1280)):
        session.feed(block)
    session.finish()
    step_s = model.config.step_s
    return ((decision.visible_steps, round(decision.time_s / step_s)) for decision in made if decision.segment == 0)


def test_a_session_does_what_is_drawn(picture: ModuleType, tiny_bundle: Path) -> None:
    manifest = replace(read_manifest(tiny_bundle), end_ids=(299,))  # it never pauses
    model = Model(tiny_bundle, manifest, device="cpu", threads=1)
    num_samples = (8 * picture.NUM_STEPS - 7) * 160  # the first step hears one frame
    for panel in picture.PANELS:
        seen = visible_steps(
            panel.policy, prompt_tokens=1, text_tokens=picture.NUM_TOKENS, source_steps=picture.NUM_STEPS
        ).tolist()
        drawn = [(steps, picture.heard_steps(steps, panel.lookahead)) for steps in seen]
        done = attempts(model, panel.policy, panel.lookahead, num_samples)
        assert [next(done) for _ in drawn] == drawn, panel.title
