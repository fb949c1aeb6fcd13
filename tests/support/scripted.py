"""Models whose parts are scripted, at the seams where a session asks its model for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models

from bestow_edge.core.specs.cross_adapter import KEYS, VALUES
from bestow_edge.core.tensors import CACHE, NEW, NEXT, GraphSpec
from bestow_edge.runtime.decoders.base import Attempt, Decoder, hear_all
from bestow_edge.runtime.devices.base import CPU, Buffer, Device, Graph, Runner
from bestow_edge.runtime.encoders.base import SpeechSteps
from bestow_edge.runtime.model import Model

OpenDecoder = Callable[[Mapping[str, Graph], Sequence[Sequence[int]]], Decoder]
LOUD = -10.0  # mean log-mel of a step that holds sound; silence has -16.6
END = 2
FIRST_NUMBER = 100  # token of the number 0


class ScriptedModel(Model):
    """A loaded model with other decoders. It shares the graphs of the model until it takes others."""

    def __init__(self, model: Model, open_decoder: OpenDecoder, tokenizer: Tokenizer | None = None) -> None:
        """Take the parts of a model.

        Args:
            model: the loaded model; it does not change.
            open_decoder: in place of `Model.open_decoder`.
            tokenizer: in place of the model's.
        """
        vars(self).update(vars(model))
        self._open = open_decoder
        self.tokenizer = tokenizer or model.tokenizer
        self.prompts: list[Sequence[Sequence[int]]] = []
        """Prompts of every segment that was begun."""
        self.opened: list[Decoder] = []
        """Decoder of every segment that was begun."""

    def open_decoder(
        self,
        graphs: Mapping[str, Graph],
        prompts: Sequence[Sequence[int]],
        *,
        drafts: bool = False,  # noqa: ARG002 - as `Model`
    ) -> Decoder:
        """Return a scripted decoder."""
        self.prompts.append(prompts)
        self.opened.append(self._open(graphs, prompts))
        return self.opened[-1]


class DecoderAround:
    """A decoder that does as another one; scripts override a part of it."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    @property
    def rows(self) -> int:
        """See `Decoder`."""
        return self.decoder.rows

    @property
    def num_tokens(self) -> npt.NDArray[np.int64]:
        """See `Decoder`."""
        return self.decoder.num_tokens

    @property
    def heard(self) -> int:
        """See `Decoder`."""
        return self.decoder.heard

    def hear(self, speech: SpeechSteps) -> None:
        """See `Decoder`."""
        self.decoder.hear(speech)

    def end(self) -> None:
        """See `Decoder`."""
        self.decoder.end()

    def supposing(self, speech: Sequence[SpeechSteps]) -> AbstractContextManager[None]:
        """See `Decoder`."""
        return self.decoder.supposing(speech)

    def attempt(self, visible_steps: Sequence[int]) -> list[Attempt]:
        """See `Decoder`."""
        return self.decoder.attempt(visible_steps)

    def commit(self, row: int, token_id: int) -> None:
        """See `Decoder`."""
        self.decoder.commit(row, token_id)

    def rehearsal(self) -> AbstractContextManager[None]:
        """See `Decoder`."""
        return self.decoder.rehearsal()

    def take_rows(self, rows: Sequence[int]) -> None:
        """See `Decoder`."""
        self.decoder.take_rows(rows)

    def branch(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        """See `Decoder`."""
        return self.decoder.branch(prompts)


class RecordedDecoder(DecoderAround):
    """A decoder of one row that records its attempts, and the tokens that were committed."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder)
        self.attempts: list[tuple[int, int]] = []
        """(visible steps, token)"""
        self.log_probs: list[float] = []
        """Of each attempt's token."""
        self.heard_slots: list[int] = []
        """Slots of the speech memory that got any attention in each attempt."""
        self.tokens: list[int] = []
        """Tokens committed."""
        self.visible: list[int] = []
        """Visible steps of each committed token."""

    @property
    def pauses(self) -> int:
        """Attempts that were not committed."""
        return len(self.attempts) - len(self.tokens)

    def attempt(self, visible_steps: Sequence[int]) -> list[Attempt]:
        """Record the attempt."""
        (got,) = self.decoder.attempt(visible_steps)
        self.attempts.append((visible_steps[0], got.token_id))
        self.log_probs.append(got.log_prob)
        self.heard_slots.append(int((got.alignment[-1, :-1] > 0).sum()))
        return [got]

    def commit(self, row: int, token_id: int) -> None:
        """Record the token."""
        self.decoder.commit(row, token_id)
        self.tokens.append(token_id)
        self.visible.append(self.attempts[-1][0])


class BurstDecoder:
    """Writes token 100 + i for burst i of loud steps once it has ended, else the end token."""

    rows = 1

    def __init__(self, loud: Sequence[bool] = (), log_prob: float = 0.0) -> None:
        """Begin a segment.

        Args:
            loud: for each step heard so far whether it is loud.
            log_prob: of every token.
        """
        self.loud, self.log_prob = list(loud), log_prob
        self.num_tokens = np.ones(1, dtype=np.int64)
        self.done = 0

    @property
    def heard(self) -> int:
        """Steps heard."""
        return len(self.loud)

    def hear(self, speech: SpeechSteps) -> None:
        """Note which steps are loud."""
        self.loud[speech.start :] = [bool(key) for key in speech.tensors[KEYS][0, 0, 0, :, 0]]

    def end(self) -> None:
        """Nothing to do: only steps count."""

    @contextmanager
    def supposing(self, speech: Sequence[SpeechSteps]) -> Iterator[None]:
        """Hear some speech for the time of the block."""
        loud = self.loud.copy()
        hear_all(self, speech)
        try:
            yield
        finally:
            self.loud = loud

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Forget what is written in the block."""
        kept = self.done, self.num_tokens.copy()
        try:
            yield
        finally:
            self.done, self.num_tokens = kept

    def attempt(self, visible_steps: Sequence[int]) -> list[Attempt]:
        """Count the bursts that end within what is visible; attend to the one that is written."""
        (visible,) = visible_steps
        seen = np.array([0, *self.loud[:visible]], dtype=int)
        (starts,), (ends,) = np.nonzero(np.diff(seen) == 1), np.nonzero(np.diff(seen) == -1)
        attention = np.zeros((1, seen.size), dtype=np.float32)
        token_id = END
        if self.done < ends.size:
            token_id = FIRST_NUMBER + self.done
            attention[0, starts[self.done] : ends[self.done]] = 1
        return [Attempt(token_id, self.log_prob, visible, lambda: attention[0], lambda: attention)]

    def commit(self, row: int, token_id: int) -> None:  # noqa: ARG002 - one row, whose tokens count the bursts
        """One more burst is written."""
        self.done += 1
        self.num_tokens += 1

    def take_rows(self, rows: Sequence[int]) -> None:
        """There is one row."""
        assert list(rows) == [0]

    def branch(self, prompts: Sequence[Sequence[int]]) -> BurstDecoder:
        """Return a fresh decoder about the same speech."""
        assert len(prompts) == 1
        return BurstDecoder(self.loud, self.log_prob)


class LoudnessGraph:
    """In place of an encoder's graph: the key of a step is 1 if the step is loud. It serves one stream at a time."""

    device: Device = CPU

    def __init__(self, spec: GraphSpec) -> None:
        self.spec = spec

    def runner(self) -> LoudnessGraph:
        """Begin a stream."""
        self.bound: dict[str, Any] = {}
        return self

    def bind(self, tensors: Mapping[str, Buffer]) -> None:
        """Keep what is bound."""
        self.bound |= tensors

    def run(self) -> dict[str, Buffer]:
        """Return keys that hold the loudness; states pass through, the rings stay as they are."""
        mel = self.bound["mel"][0].copy()
        if "frame_start" in self.bound:
            mel[: self.bound["frame_start"][0]] = -20
        mel[self.bound["frame_end"][0] :] = -20
        loud = mel.mean(1).reshape(-1, 8).max(1) > LOUD  # (steps,)
        keys = loud.astype(np.float32)[None, None, None, :, None]
        states = {NEXT + tensor.name: self.bound[tensor.name] for tensor in self.spec.states}
        rings = [name for name in self.bound if name.startswith(CACHE)]
        new = {NEW + name.removeprefix(CACHE): self.bound[name][:, :, : loud.size] for name in rings}
        return {KEYS: keys, VALUES: keys} | states | new


class RecordedGraph:
    """A graph that records how many mel frames each run has. It serves one stream at a time."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.spec, self.device = graph.spec, graph.device
        self.frames: list[int] = []

    def runner(self) -> RecordedGraph:
        """Begin a stream."""
        self._runner: Runner = self._graph.runner()
        self._bound = 0
        return self

    def bind(self, tensors: Mapping[str, Buffer]) -> None:
        """Bind, and note how many frames there are."""
        self._runner.bind(tensors)
        if "mel" in tensors:
            self._bound = tensors["mel"].shape[1]

    def run(self) -> Mapping[str, Buffer]:
        """Record the frames and run."""
        self.frames.append(self._bound)
        return self._runner.run()


def recorded(model: Model) -> ScriptedModel:
    """Return a model that records what its sessions, of one prompt each, ask of their decoders."""
    return ScriptedModel(model, lambda graphs, prompts: RecordedDecoder(model.open_decoder(graphs, prompts)))


def write_bursts(model: Model, log_prob: float = 0.0) -> ScriptedModel:
    """Return a model that writes a number for each burst of sound, of one log-probability."""
    scripted = ScriptedModel(model, lambda *_: BurstDecoder(log_prob=log_prob), number_tokenizer())
    name, *_ = graphs = model.graphs
    scripted.take_graphs({**graphs, name: LoudnessGraph(graphs[name].spec)})
    return scripted


def number_tokenizer() -> Tokenizer:
    """Return a tokenizer with a token for each number, which begins a word."""
    return word_tokenizer({f"▁{number}": FIRST_NUMBER + number for number in range(100)} | {"<end>": END})


def word_tokenizer(vocabulary: Mapping[str, int]) -> Tokenizer:
    """Return a tokenizer of whole tokens, of which those with a mark, such as "▁", begin a word."""
    tokenizer = Tokenizer(models.WordLevel(dict(vocabulary), unk_token=next(iter(vocabulary), "")))
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer
