"""Connector kind `interleave`: the `token_embedding` and `llm_step` graphs, speech and text in one sequence.

An attempt appends the steps that its row has not seen, a turn, to the row's sequence and returns the token behind them.
Each position goes through the LLM once. When a sequence is longer than the window, its oldest turns are dropped: keys
and values of the prompt stay, and the newest half of the window is run again at the positions that it has then. So a
position never leaves the range of training, whatever the LLM makes of positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from bestow_edge.core.bundle import BundleManifest
from bestow_edge.core.specs.interleave import SPEECH_EMBEDS, interleave
from bestow_edge.core.specs.llm import EMBEDDING
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.tensors import INPUTS_EMBEDS, LOGITS, TOKEN_IDS
from bestow_edge.runtime.decoders.base import Attempt
from bestow_edge.runtime.decoders.cached_graph import CachedGraph
from bestow_edge.runtime.decoders.scores import OnDevice, best_tokens, log_probs
from bestow_edge.runtime.devices.base import Array, Buffer, Graph
from bestow_edge.runtime.encoders.base import SpeechSteps


@dataclass(slots=True)
class Row:
    """The sequence of one text."""

    prompt_len: int
    """Positions of its prompt, which are in the cache."""
    embeds: list[Array] = field(default_factory=list)
    """(hidden,) of each position behind the prompt."""
    turns: list[int] = field(default_factory=list)
    """Number of the first position of each turn."""
    cached: int = 0
    """Positions behind the prompt that are in the cache."""
    seen: int = 0
    """Steps of the stream that it has seen."""
    written: int = 0
    """Tokens of its text."""
    dropped: int = 0
    """Times that turns were dropped."""
    newest: Array | None = None
    """Additive form: (hidden,) of the last token, if it is in no position yet; None = BLANK."""

    def copy(self) -> Row:
        """Return a copy that does not change with it."""
        return replace(self, embeds=self.embeds.copy(), turns=self.turns.copy())

    def drop_turns(self, room: int) -> None:
        """Keep the newest whole turns of at most `room` positions, or the end of a single one."""
        end = len(self.embeds)
        first = next((start for start in self.turns if end - start <= room), end - room)
        self.embeds = self.embeds[first:]
        self.turns = [start - first for start in self.turns if start >= first]
        self.cached, self.dropped = 0, self.dropped + 1


class InterleaveDecoder:
    """The decoder of LLMs that hear speech in turns: the texts of a stream share its embeddings."""

    def __init__(self, graphs: Mapping[str, Graph], window: int, end_id: int, prompts: Sequence[Sequence[int]]) -> None:
        """Run the prompts.

        Args:
            graphs: of the bundle, by name.
            window: most positions of a row.
            end_id: the token that marks the end of the speech.
            prompts: token ids of each row's whole prompt.
        """
        self._embedding, self._llm = graphs[EMBEDDING].runner(), CachedGraph(graphs[LLM], len(prompts))
        self._device, self._spec = graphs[LLM].device, graphs[LLM].spec
        self._window, self._end_id = window, end_id
        self._rows = [Row(len(prompt)) for prompt in prompts]
        self._steps: list[Array] = []  # (hidden,) each, those that a row has not seen
        self._first = 0  # number of the first of them
        self._ended = False
        self._prefill(prompts)

    @property
    def rows(self) -> int:
        """Texts decoded at once."""
        return len(self._rows)

    @property
    def num_tokens(self) -> npt.NDArray[np.int64]:
        """(rows,) committed tokens, prompt included; speech does not count."""
        return np.array([row.prompt_len + row.written for row in self._rows], dtype=np.int64)

    @property
    def heard(self) -> int:
        """See `Decoder`; the mark of the end is a step."""
        return self._first + len(self._steps)

    def hear(self, speech: SpeechSteps) -> None:
        """Take in more speech. Steps that were heard before keep their values."""
        (embeds,) = self._device.get(speech.tensors[SPEECH_EMBEDS])
        self._steps += list(embeds[0, self.heard - speech.start : speech.end - speech.start])

    def end(self) -> None:
        """Hear the mark of the end, once; there is none without speech."""
        if self.heard and not self._ended:
            self._steps.append(self._embed([[self._end_id]])[0, 0])
            self._ended = True

    @contextmanager
    def supposing(self, speech: Sequence[SpeechSteps]) -> Iterator[None]:
        """See `Decoder`."""
        kept = self._steps.copy(), self._first, self._ended
        with self.rehearsal():
            for steps in speech:
                self.hear(steps)
            self.end()
            try:
                yield
            finally:
                self._steps, self._first, self._ended = kept

    def branch(self, prompts: Sequence[Sequence[int]]) -> InterleaveDecoder:
        """See `Decoder`.

        Raises:
            RuntimeError: always; speech that all rows have seen is forgotten.
        """
        raise RuntimeError(f"{len(prompts)} rows about speech that is gone; connector interleave has no beam")

    def attempt(self, visible_steps: Sequence[int]) -> list[Attempt]:
        """See `Decoder`. A row with 0 visible steps does not change; its attempt is not used."""
        todo: list[list[Array]] = []
        for number, (row, visible) in enumerate(zip(self._rows, visible_steps, strict=True)):
            todo.append(self._next_positions(row, visible) if visible else [])
            if visible:
                self._llm.past_tokens[number] = row.prompt_len + len(row.embeds) - len(todo[number])
        out = self._run_positions(todo)
        for number, row in enumerate(self._rows):
            if todo[number]:
                row.cached = len(row.embeds)
                self._llm.past_tokens[number] = row.prompt_len + row.cached
        self._forget_seen()
        best = best_tokens(self._device, out, self._spec)
        logits = OnDevice(self._device, out[LOGITS])
        return [
            Attempt(*best[number], visible, partial(log_probs, logits, number))
            for number, visible in enumerate(visible_steps)
        ]

    def commit(self, row: int, token_id: int) -> None:
        """Append a token to a row; it goes through the LLM at the next attempt."""
        self._rows[row].embeds.append(self._embed([[token_id]])[0, 0])
        self._rows[row].written += 1

    def take_rows(self, rows: Sequence[int]) -> None:
        """Replace each row i by a copy of row `rows[i]`."""
        self._rows = [self._rows[row].copy() for row in rows]
        self._llm.take_rows(np.array(rows, dtype=np.int64))

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Forget, at the end of a `with` block, what rows saw and wrote in it."""
        kept, steps, first = [row.copy() for row in self._rows], self._steps.copy(), self._first
        try:
            yield
        finally:
            for before, row in zip(kept, self._rows, strict=True):
                if row.dropped != before.dropped:  # the cache holds other positions
                    before.cached = 0
            self._rows, self._steps, self._first = kept, steps, first

    def _next_positions(self, row: Row, visible: int) -> list[Array]:
        """Return the positions of a row to run for an attempt: those not in the cache, or the last one again."""
        seen, row.seen = row.seen, max(row.seen, visible)
        self._append(row, self._steps[seen - self._first : row.seen - self._first])
        if row.prompt_len + len(row.embeds) > self._window:
            row.drop_turns(self._window // 2 - row.prompt_len)
        return row.embeds[min(row.cached, len(row.embeds) - 1) :]

    def _append(self, row: Row, steps: Sequence[Array]) -> None:
        """Append the steps of a turn to a row; there may be none."""
        if steps:
            row.turns.append(len(row.embeds))
            row.embeds += steps

    def _run_positions(self, todo: Sequence[Sequence[Array]]) -> Mapping[str, Buffer]:
        """Run some positions of each row and return the LLM's outputs behind the last one.

        Rows of different numbers of positions run all but the last ones first, because outputs are those of the last
        place of the batch. Rows without positions run zeros, whose keys and values are overwritten.
        """
        if len({len(positions) for positions in todo if positions}) > 1:
            heads = [positions[:-1] for positions in todo]
            self._run(heads)
            self._llm.past_tokens += np.array([len(head) for head in heads], dtype=np.int64)
            todo = [positions[-1:] for positions in todo]
        return self._run(todo)

    def _run(self, rows: Sequence[Sequence[Array]]) -> Mapping[str, Buffer]:
        like = next(positions[0] for positions in rows if positions)
        embeds = np.zeros((len(rows), max(map(len, rows)), *like.shape), dtype=like.dtype)
        for number, positions in enumerate(rows):
            if positions:
                embeds[number, : len(positions)] = positions
        return self._llm.run({INPUTS_EMBEDS: embeds}, embeds.shape[1])

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> None:
        """Put the prompts into the cache; shorter ones are followed by tokens to overwrite."""
        embeds = self._embed(prompts)
        self._llm.run({INPUTS_EMBEDS: embeds}, embeds.shape[1])
        self._llm.past_tokens[:] = [len(prompt) for prompt in prompts]

    def _embed(self, rows: Sequence[Sequence[int]]) -> Array:
        """Return the embeddings of tokens, (rows, tokens, hidden); shorter rows are filled up."""
        longest = max(map(len, rows))
        ids = np.array([[*row, *[0] * (longest - len(row))] for row in rows], dtype=np.int64)
        self._embedding.bind({TOKEN_IDS: ids})
        (embeds,) = self._device.get(self._embedding.run()[INPUTS_EMBEDS])
        return embeds

    def _forget_seen(self) -> None:
        """Drop the steps that every row has seen."""
        seen = min(row.seen for row in self._rows) - self._first
        self._steps, self._first = self._steps[seen:], self._first + seen


class AdditiveDecoder(InterleaveDecoder):
    """The decoder of the additive form: a position holds a step and the token before it."""

    def end(self) -> None:
        """Hear the mark of the end, once: a step that adds nothing."""
        if self.heard and not self._ended:
            self._steps.append(np.zeros_like(self._blank))
            self._ended = True

    def commit(self, row: int, token_id: int) -> None:
        """Keep a token for the row's next position."""
        self._rows[row].newest = self._embed([[token_id]])[0, 0]
        self._rows[row].written += 1

    def _append(self, row: Row, steps: Sequence[Array]) -> None:
        for step in steps:
            row.turns.append(len(row.embeds))
            row.embeds.append(step + (self._blank if row.newest is None else row.newest))
            row.newest = None
        if row.newest is not None:  # behind the mark, where no steps follow
            row.embeds.append(row.newest)
            row.newest = None

    @cached_property
    def _blank(self) -> Array:
        """(hidden,) of BLANK."""
        blank: Array = self._embed([[self._end_id]])[0, 0]
        return blank


def open_decoder(
    graphs: Mapping[str, Graph], manifest: BundleManifest, prompts: Sequence[Sequence[int]]
) -> InterleaveDecoder:
    """Return a decoder that has heard no speech."""
    connector = interleave(manifest.model)
    kind = AdditiveDecoder if connector.form == "additive" else InterleaveDecoder
    return kind(graphs, connector.window, manifest.end_ids[0], prompts)
