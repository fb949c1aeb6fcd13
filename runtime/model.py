"""A loaded bundle: three graphs, a tokenizer and the manifest. Sessions are opened on it.

Loading checks the manifest, the files and the graphs' signatures; nothing is downloaded and nothing falls back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from bestow_edge.bundle import BundleManifest, check_files, read_manifest
from bestow_edge.config import ModelConfig
from bestow_edge.errors import ConfigError
from bestow_edge.latency import solve
from bestow_edge.policy import Policy, WaitK
from bestow_edge.prompts import Pair, Task, check_trained, make_pair
from bestow_edge.runtime.events import TextEvent
from bestow_edge.runtime.graph import Graph
from bestow_edge.runtime.session import Session
from bestow_edge.runtime.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)
SEGMENT_PAUSE_S = 2.0  # longer than the pauses the digit model was trained on

Device = Literal["cpu", "cuda"]


class Model:
    """A bundle in memory. It never changes, so any number of sessions and threads may share it."""

    def __init__(self, directory: Path, manifest: BundleManifest, *, device: Device, threads: int) -> None:
        """Load the graphs; use `load`, which checks the files first."""
        self.directory = directory
        self.manifest = manifest

        def graph(name: str) -> Graph:
            path = directory / manifest.graphs[name].file
            return Graph(path, manifest.specs[name], device=device, threads=threads)

        self.encoder, self.adapter, self.llm = (graph(name) for name in manifest.specs)
        self.tokenizer = load_tokenizer(directory / "tokenizer.json")

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.manifest.model

    @property
    def sample_rate_hz(self) -> int:
        """Rate that `Session.feed` expects."""
        return self.config.features.sample_rate_hz

    def prompt_ids(self, pair: Pair) -> tuple[int, ...]:
        """Return the token ids of a pair's prompt."""
        return self.manifest.prompts[str(pair)]

    def session(
        self,
        *,
        task: Task | None = None,
        source: str,
        target: str | None = None,
        k: int | None = None,
        l: int | None = None,  # noqa: E741 - the paper's letter
        policy: Policy | None = None,
        lookahead: int | None = None,
        latency_s: float | None = None,
        segment_pause_s: float = SEGMENT_PAUSE_S,
    ) -> Session:
        """Open a session on one stream of audio.

        Args:
            task: "transcribe" or "translate"; None lets the languages decide.
            source: language of the speech, such as "en".
            target: language of the text; None means `source`.
            k: wait-k's K, None = the bundle's default.
            l: wait-k's L in encoder steps (80 ms), None = the bundle's default.
            policy: another read/write policy, such as `Offline()`; excludes `k` and `l`.
            lookahead: right context of a cache-aware encoder in steps, None = the bundle's default.
            latency_s: most audio before the first token, seconds, from which `bestow_edge.latency.solve` chooses `k`,
                `l` and `lookahead`; excludes them and `policy`.
            segment_pause_s: silence after which a new segment begins, at least 1.5 seconds; 0 = never.

        Raises:
            PromptError: the model was not trained for these languages.
            ConfigError: the policy, the look-ahead, the latency or the pause is out of range.
        """
        pair = make_pair(task, source, target)
        check_trained(pair, self.config.pairs)
        if latency_s is not None:
            if (k, l, policy, lookahead) != (None, None, None, None):
                raise ConfigError("give either latency_s or k, l, policy and lookahead, not both")
            choice = solve(latency_s, self.config)
            k, l = choice.k, choice.l  # noqa: E741 - the paper's letter
            lookahead = choice.lookahead if self.config.bidirectional is None else None
        if lookahead is None:
            lookahead = self.config.right_context
        else:
            self._check_lookahead(lookahead)
        if policy is None:
            policy = self._wait_k(k, l)
        elif k is not None or l is not None:
            raise ConfigError("give either policy or k and l, not both")
        return Session(self, pair=pair, policy=policy, lookahead=lookahead, segment_pause_s=segment_pause_s)

    def _check_lookahead(self, lookahead: int) -> None:
        if (window := self.config.bidirectional) is not None:
            got = (
                f"lookahead {lookahead}: this model's encoder is bidirectional and always hears {window.right_context}"
            )
            raise ConfigError(f"{got} steps ahead; leave the look-ahead out")
        if lookahead not in (known := self.config.streaming.lookaheads):
            raise ConfigError(f"lookahead {lookahead}: this model has {', '.join(map(str, known))}")

    def _wait_k(self, k: int | None, l: int | None) -> WaitK:  # noqa: E741 - the paper's letter
        default = self.config.policy
        try:
            return WaitK(default.k if k is None else k, default.l if l is None else l)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def load(bundle: str | PathLike[str] | None = None, *, device: Device = "cpu", threads: int = 0) -> Model:
    """Load a bundle.

    Args:
        bundle: its directory; None loads the digit demo that ships with the package.
        device: "cpu", or "cuda" with onnxruntime-gpu.
        threads: threads within one operator, 0 = one for each core.

    Raises:
        BundleError: the bundle is missing, damaged, of another format version, or does not fit its manifest.
        MissingExtraError: onnxruntime is not installed.
    """
    if bundle is None:
        directory = embedded_bundle()
        logger.info("no bundle given: using the embedded demo (spoken digits, English and German)")
    else:
        directory = Path(bundle)
    manifest = read_manifest(directory)
    check_files(directory, manifest, hashes=False)
    return Model(directory, manifest, device=device, threads=threads)


def embedded_bundle() -> Path:
    """Return the directory of the demo bundle inside the package."""
    return Path(str(files("bestow_edge.runtime.assets.digits")))


def stream(session: Session, blocks: Iterator[npt.NDArray[np.float32]]) -> Iterator[TextEvent]:
    """Feed all blocks to a session, finish it, and yield its events as they come.

    Args:
        session: a fresh session.
        blocks: (samples,) float32 each.
    """
    for block in blocks:
        yield from session.feed(block)
    yield from session.finish()
