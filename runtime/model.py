"""A loaded bundle: its graphs, its tokenizer and its manifest. Sessions are opened on it.

Loading checks the manifest, the files and the graphs' signatures. It never downloads a file and never falls back.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path

from bestow_edge.core.bundle import BundleManifest, check_files, read_manifest
from bestow_edge.core.config import ModelConfig, SegmentConfig
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.delay import TRAINED_K, is_trained, solve
from bestow_edge.core.embedded import describe, find_bundle
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.graphs import part_spec
from bestow_edge.core.hash_memory import HashMemory
from bestow_edge.core.hotwords import Hotword, check_hotwords
from bestow_edge.core.policy import EveryStep, Offline, Policy, WaitK
from bestow_edge.core.prompts import AboutSpeech, Pair, Question, Task, make_pair, parse_pair, prompt_text
from bestow_edge.core.request import (
    Request,
    change_policy,
    check_asked,
    check_follows,
    check_lookahead,
    default_policy,
    given_fields,
    offline_policy,
)
from bestow_edge.runtime.decoders.base import Decoder, open_decoder
from bestow_edge.runtime.devices.base import CPU, Device, Graph, Graphs
from bestow_edge.runtime.devices.opening import open_graphs
from bestow_edge.runtime.encoders.base import SpeechEncoder, open_encoder
from bestow_edge.runtime.stream.answer import Prompt
from bestow_edge.runtime.stream.events import Event
from bestow_edge.runtime.stream.segments import MOST_STEPS
from bestow_edge.runtime.stream.session import Session
from bestow_edge.runtime.stream.text import encode, load_tokenizer, question_ids

logger = logging.getLogger(__name__)

SMALL_BYTES = 64_000_000  # of a bundle; the demo has 21 MB, and two threads cost 1.6 times the processor time of one
CORES_FOR_AHEAD = 4  # with two, encoder and LLM take the cores from each other


class Model:
    """A bundle in memory, shared by any number of sessions and threads. Its results never change."""

    def __init__(
        self,
        directory: Path,
        manifest: BundleManifest,
        *,
        device: str,
        threads: int,
        mapped: Collection[str] = (),
        ahead: bool = False,
    ) -> None:
        """Load the graphs; use `load`, which checks the files first.

        Args:
            directory: the bundle.
            manifest: its manifest.
            device: see `open_graphs`.
            threads: threads within one operator.
            mapped: names of graphs whose weights stay in their files, see `open_session`.
            ahead: encode the next chunk, if its audio is there, while text is written.
        """
        self.directory = directory
        self.manifest = manifest
        opened = open_graphs(directory, manifest, device, threads=threads, mapped=mapped)
        self.graphs = opened.graphs
        """Graphs by name, all of one device."""
        self.upgrade = opened.upgrade
        """Prepares better graphs, such as TensorRT engines, while others serve; None if these are the best."""
        if self.upgrade is not None:
            self.upgrade.begin(self.take_graphs)
        self.tokenizer = load_tokenizer(directory / "tokenizer.json")
        self.executor = ThreadPoolExecutor(1, "bestow-edge-encoder") if ahead else None
        """Executor on which sessions encode ahead."""
        self.checks_guesses = manifest.scores_several and self.device is CPU  # kernels of GPUs may round otherwise
        """Whether sessions with drafts check tokens of the one before, several in one run of the LLM."""
        self._warned: set[Policy] = set()

    @property
    def device(self) -> Device:
        """The device the graphs run on."""
        return next(iter(self.graphs.values())).device

    def take_graphs(self, graphs: Graphs) -> None:
        """Use other graphs: in new sessions from now on, in open sessions from their next segment on."""
        self.graphs = graphs  # one assignment: a session on another thread sees all the old graphs or all the new ones

    def open_encoder(
        self,
        graphs: Mapping[str, Graph],
        policies: Sequence[Policy],
        right_context: int,
        segment_steps: int = MOST_STEPS,
    ) -> SpeechEncoder[Any]:  # Any: each kind of encoder has a state of its own
        """Return an encoder for one stream; arguments are those of `bestow_edge.runtime.encoders.base.open_encoder`."""
        graph = graphs[part_spec(self.manifest.specs, "encoder").name]
        return open_encoder(graph, self.config, policies, right_context, segment_steps)

    def open_decoder(
        self, graphs: Mapping[str, Graph], prompts: Sequence[Sequence[int]], *, drafts: bool = False
    ) -> Decoder:
        """Return a decoder for one segment; arguments are those of `bestow_edge.runtime.decoders.base.open_decoder`.

        If there are `drafts` of an answer, each is a guess of the next one.
        """
        return open_decoder(graphs, self.manifest, prompts, checks=drafts and self.checks_guesses)

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.manifest.model

    @property
    def sample_rate_hz(self) -> int:
        """Rate that `Session.feed` expects."""
        return self.config.features.sample_rate_hz

    @property
    def default_policy(self) -> Policy:
        """The policy of a session without a policy argument."""
        return default_policy(None, self.config.policy)

    def prompt_ids(self, asked: AboutSpeech, hotwords: Sequence[Hotword] = ()) -> tuple[int, ...]:
        """Return the token ids of a prompt.

        The bundle holds those of a pair. The tokenizer makes those of a question, and of a pair whose prompt takes
        hotwords.

        Raises:
            PromptError: if the question cannot be asked, see `bestow_edge.runtime.stream.text.question_ids`.
        """
        if isinstance(asked, Pair) and hotwords and self.config.chat.before_hotwords:
            text = prompt_text(asked, self.config.chat, hotwords)
            return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)
        if isinstance(asked, Pair):
            return self.manifest.prompts[str(asked)]
        return question_ids(self.tokenizer, asked, self.config.chat, self.manifest.max_text_tokens)

    @property
    def start_ids(self) -> tuple[int, ...]:
        """Tokens that every prompt begins with, behind which a model detects the language of the speech."""
        return tuple(encode(self.tokenizer, self.config.chat.before))

    def condition(self, policy: Policy) -> tuple[int, ...]:
        """Return the tokens behind a prompt that tell the LLM the policy, for kinds of connector that have some."""
        return CONNECTORS[self.config.connector.kind].condition(self.config, policy)

    def join(self, prompt: tuple[int, ...], context: tuple[int, ...]) -> tuple[int, ...]:
        """Return the tokens that a segment begins with: a prompt, and tokens of the segment before in their place."""
        previous = self.config.chat.previous
        if not previous or not context:
            return *prompt, *context
        return *encode(self.tokenizer, previous), *context, *prompt

    def session(
        self,
        *,
        task: Task | None = None,
        source: str,
        target: str | None = None,
        ask: str | None = None,
        k: int | None = None,
        l: int | None = None,  # noqa: E741 - the paper's letter
        policy: Policy | None = None,
        lookahead: int | None = None,
        latency_s: float | None = None,
        segments: SegmentConfig | None = None,
        beam_size: int = 1,
        hotwords: Sequence[Hotword | str] = (),
    ) -> Session:
        """Open a session on one stream of audio.

        A question is answered at the end of the audio, because its subject may come last, unless `k`, `l`, `policy` or
        `latency_s` choose another policy. A segment that is full ends earlier: its answer is about this segment alone,
        and the next segment has an answer of its own.

        Args:
            task: "transcribe" or "translate"; None follows from the languages.
            source: language of the speech, such as "en"; "auto" lets the model detect it.
            target: language of the text; None means `source`.
            ask: a question about the speech; excludes `task` and `target`.
            k: wait-k's K, None = the bundle's default.
            l: wait-k's L in encoder steps (80 ms), None = the bundle's default.
            policy: another read/write policy, such as `Offline()`; excludes `k` and `l`.
            lookahead: right context of the encoder in steps, None = the bundle's default.
            latency_s: most audio before the first token, seconds, from which `bestow_edge.core.delay.solve` chooses
                `k`, `l` and `lookahead`; excludes them and `policy`.
            segments: limits of a segment, None = the bundle's default; to change one limit, give
                `dataclasses.replace(model.config.segments, pause_s=0)`.
            beam_size: hypotheses kept by the search at the end of the audio; more than 1 needs `Offline()`.
            hotwords: names to prefer to words that sound alike, each a `Hotword` or a word with the default weight.

        Raises:
            PromptError: if the model was not trained for these languages or for questions, the question is empty or
                too long for the LLM's context, or the tokenizer cannot write a hotword.
            ConfigError: if the policy, the look-ahead, the latency or a limit is out of range.
        """
        asked = _asked(task, source, target, ask)
        if latency_s is not None:
            if (k, l, policy, lookahead) != (None, None, None, None):
                raise ConfigError("give either latency_s or k, l, policy and lookahead, not both")
            choice = solve(latency_s, self.config)
            k, l, lookahead = choice.k, choice.l, choice.lookahead  # noqa: E741 - the paper's letter
        if policy is None:
            at_the_end = isinstance(asked, Question) and (k, l) == (None, None)
            default = default_policy(None if k is None else "wait-k", self.config.policy)
            policy = offline_policy(self.config) if at_the_end else change_policy(default, given_fields(k=k, l=l))
        elif k is not None or l is not None:
            raise ConfigError("give either policy or k and l, not both")
        if beam_size < 1 or (beam_size > 1 and not isinstance(policy, Offline)):
            raise ConfigError(_beam_error(beam_size))
        return self.multi_session(
            [(asked, policy)], lookahead=lookahead, segments=segments, beam_size=beam_size, hotwords=hotwords
        )

    def open(self, request: Request) -> Session:
        """Open a session that does what a request states; errors are those of `multi_session`."""
        prompts, right_context = request.prompts(self.config), request.right_context(self.config)
        return self.multi_session(
            prompts, lookahead=right_context, beam_size=request.beam_size, hotwords=request.hotwords
        )

    def multi_session(
        self,
        prompts: Sequence[tuple[str | AboutSpeech, Policy]],
        *,
        lookahead: int | None = None,
        segments: SegmentConfig | None = None,
        beam_size: int = 1,
        hotwords: Sequence[Hotword | str] = (),
    ) -> Session:
        """Open a session that answers several prompts about one stream: one encoder pass, one batch of texts.

        Until the first segment ends, each text equals that of a session of its own; segments end for all texts at once.
        Events name their prompt. Questions follow the texts beside them: with `Offline()` a question is answered at
        the end of each segment in which a text has words.

        Args:
            prompts: language pair, such as "en-de", or `Question`, and policy of each text, at least one.
            lookahead: as for `session`, and so are the other arguments.
            segments: see `session`.
            beam_size: see `session`; more than 1 for a single prompt only.
            hotwords: see `session`; for all texts.

        Raises:
            PromptError: if the model was not trained for one of the language pairs or questions, a question is too long
                for the LLM's context, or the tokenizer cannot write a hotword.
            ConfigError: if the look-ahead or a limit is out of range, the model cannot follow a policy, or there are no
                prompts.
        """
        if not prompts or (beam_size > 1 and len(prompts) > 1):
            raise ConfigError(
                f"{len(prompts)} prompts, beam_size {beam_size}: expected prompts, one of them for a beam"
            )
        asked = [
            Prompt(parse_pair(text, auto=True) if isinstance(text, str) else text, policy) for text, policy in prompts
        ]
        if beam_size > 1 and not isinstance(asked[0].policy, Offline):
            raise ConfigError(_beam_error(beam_size))
        for prompt in asked:
            check_asked(prompt.asked, self.config)
            check_follows(prompt.policy, self.config)
            self._warn_of(prompt.policy)
        check_lookahead(lookahead, self.config)
        if lookahead is None:
            lookahead = self.config.encoder.default_right_context
        if segments is None:
            segments = self.config.segments
            if all(isinstance(prompt.asked, Question) for prompt in asked):
                segments = replace(segments, max_s=0.0)  # an answer is about all of the speech
        checked = check_hotwords(hotwords)
        return Session(
            self, prompts=asked, lookahead=lookahead, segments=segments, beam_size=beam_size, hotwords=checked
        )

    def _warn_of(self, policy: Policy) -> None:
        """Log a warning about a wait-k or turns that were not trained, once for each."""
        if isinstance(policy, EveryStep) and policy not in self._warned and policy.l != self.config.policy.l:
            self._warned.add(policy)
            turns = self.config.policy.l
            logger.warning("L=%d: this model was trained with turns of %d; expect more mistakes", policy.l, turns)
        if not isinstance(policy, WaitK) or policy in self._warned or is_trained(policy.k, policy.l, self.config):
            return
        self._warned.add(policy)
        trained = f"L={self.config.policy.l} and K from {TRAINED_K.start} to {TRAINED_K.stop - 1}"
        logger.warning("K=%d, L=%d: models are trained with %s; expect more mistakes", policy.k, policy.l, trained)


def _beam_error(beam_size: int) -> str:
    return f"beam_size {beam_size}: expected 1, or more with Offline(): a beam may change its mind"


def _asked(task: Task | None, source: str, target: str | None, ask: str | None) -> AboutSpeech:
    if ask is None:
        return make_pair(task, source, target)
    if task is not None or target is not None:
        raise ConfigError("give either ask or task and target, not both; multi_session answers several prompts")
    return Question(source, ask)


def load(
    bundle: str | PathLike[str] | None = None,
    *,
    device: str = "cpu",
    threads: int = 0,
    ahead: bool | None = None,
) -> Model:
    """Load a bundle.

    Args:
        bundle: its directory, `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION` of the Hugging Face Hub, or "people" or
            "demo", which ship with the package; None loads the first of these.
        device: "cpu", "cuda:0" with the extra `gpu`, or "tensorrt:0" with the extra `tensorrt` too: missing engines
            are built in the background while CUDA or the CPU serves.
        threads: threads within one operator; 0 = one for each core, or a single one for a bundle below
            `SMALL_BYTES`, whose operators are too short to be shared.
        ahead: encode the next chunk on another thread while text is written, if its audio is there, as in a file or
            after a delay; None does so on four cores or more. Texts are the same.

    Raises:
        BundleError: if the bundle is missing, damaged, of another format version, or does not fit its manifest.
        HubError: if a bundle of the Hub is neither within reach nor in the cache.
        ConfigError: if there is no such device.
        MissingExtraError: if onnxruntime is not installed, or huggingface_hub for a bundle of the Hub.
    """
    directory = find_bundle(bundle)
    if bundle is None:
        logger.info("%s", describe(directory))
    manifest = read_manifest(directory)
    memory = HashMemory(user_cache_path("bestow-edge", appauthor=False) / "hashes.json")
    check_files(directory, manifest, hashes=memory)
    memory.save()
    if ahead is None:
        ahead = (os.cpu_count() or 1) >= CORES_FOR_AHEAD
    return Model(directory, manifest, device=device, threads=threads or default_threads(manifest), ahead=ahead)


def default_threads(manifest: BundleManifest) -> int:
    """Return the threads of an operator for a bundle: 1 if it is small, else 0 for one for each core."""
    return int(sum(file.size for file in manifest.files) < SMALL_BYTES)


def stream(session: Session, blocks: Iterable[npt.NDArray[np.float32]]) -> Iterator[Event]:
    """Feed all blocks to a session, finish it, and yield its events at once.

    Args:
        session: a fresh session.
        blocks: (samples,) float32 each.
    """
    for block in blocks:
        yield from session.feed(block)
    yield from session.finish()
