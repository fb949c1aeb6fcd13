"""What decoders over a speech memory share: kinds `cross_adapter` and `gated_layers`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.tensors import ALIGNMENT, LOGITS, VISIBLE_STEPS, WRITTEN_STEPS
from bestow_edge.runtime.decoders.base import Attempt
from bestow_edge.runtime.decoders.cached_graph import CachedGraph, Ints
from bestow_edge.runtime.decoders.rehearsed import Path, Rehearsed
from bestow_edge.runtime.decoders.scores import OnDevice, alignment_of, best_tokens, log_probs
from bestow_edge.runtime.decoders.speech_memory import SpeechMemory
from bestow_edge.runtime.devices.base import Buffer, Graph
from bestow_edge.runtime.encoders.base import SpeechSteps

MOST_GUESSES = 15  # tokens of a draft that are checked in one run; 16 tokens cost 3.3 times one


class MemoryDecoder(ABC):
    """The texts of a segment share its speech memory."""

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        prompts: Sequence[Sequence[int]],
        memory: SpeechMemory,
        *,
        checks: bool = False,
    ) -> None:
        """Take the last tokens of the prompts as the first queries; the subclass runs the tokens before them.

        Args:
            graphs: of the bundle, by name.
            prompts: token ids of each row's whole prompt.
            memory: the speech heard so far.
            checks: check guesses. Runs then have an even number of tokens: kernels multiply two at a time, and the one
                that is left over in another order.
        """
        self._graphs, self._device = graphs, graphs[LLM].device
        self.memory = memory
        self._bound_keys: Buffer | None = None  # of the memory, as it is bound now
        self._llm = CachedGraph(graphs[LLM], len(prompts))
        self.queries = np.array([prompt[-1] for prompt in prompts], dtype=np.int64)
        """(rows,) the token each row goes on from."""
        self._rehearsed = Rehearsed()
        self._checks = checks
        self._begins = np.array([len(prompt) - 1 for prompt in prompts], dtype=np.int64)
        """(rows,) committed tokens before the answers."""
        self._guessed = [list[int]() for _ in prompts]
        """Answer of each row as it was committed last, in rehearsals too."""
        self._followed = self._only_row
        """Row whose tokens the rehearsal commits, None until that is known."""

    @property
    def num_tokens(self) -> Ints:
        """(rows,) committed tokens, prompt included."""
        return self._llm.past_tokens

    @property
    def rows(self) -> int:
        """Texts decoded at once."""
        return self.queries.size

    @property
    def heard(self) -> int:
        """See `Decoder`."""
        return self.memory.written

    def hear(self, speech: SpeechSteps) -> None:
        """See `Decoder`."""
        self._rehearsed.forget()
        self.memory.write(speech)

    def end(self) -> None:  # noqa: B027 - a subclass need not add to it
        """Nothing to do: what is visible does not depend on the end."""

    @contextmanager
    def supposing(self, speech: Sequence[SpeechSteps]) -> Iterator[None]:
        """See `Decoder`."""
        first = min((steps.start for steps in speech), default=self.heard)
        snapshot = self.memory.snapshot(first, max((steps.end for steps in speech), default=self.heard))
        for steps in speech:
            self.hear(steps)
        try:
            yield
        finally:
            self._rehearsed.forget()
            self.memory.restore(snapshot)

    def attempt(self, visible_steps: Sequence[int]) -> list[Attempt]:
        """See `Decoder`; a row's next token follows its query."""
        key = _key(self.num_tokens, self.queries, visible_steps)
        return self._rehearsed.attempt(key, partial(self._predict, visible_steps))

    def _predict(self, visible_steps: Sequence[int]) -> Path:
        """Run the queries and, if guesses are checked, the tokens that may follow in one row."""
        row, guess = self._guess()
        count = 1 + len(guess)
        count += self._checks and count % 2
        tokens = np.repeat(self.queries[:, None], count, axis=1)  # (rows, tokens)
        tokens[row, 1 : 1 + len(guess)] = guess
        out = self._run(tokens, np.repeat(np.array(visible_steps, dtype=np.int64)[:, None], count, axis=1))
        attempts = self._attempts(out, visible_steps, 1 + len(guess))
        path: Path = []
        num_tokens, queries = self.num_tokens.copy(), self.queries.copy()
        for place, query in enumerate(tokens[row, : 1 + len(guess)]):
            num_tokens[row], queries[row] = self.num_tokens[row] + place, query
            found = [attempts[other][place if other == row else 0] for other in range(self.rows)]
            path.append((_key(num_tokens, queries, visible_steps), found))
        return path

    def _guess(self) -> tuple[int, list[int]]:
        """Return the row that a rehearsal follows, and the tokens that stood behind its query in the draft before."""
        if not (self._checks and self._rehearsed.running) or self._followed is None:
            return 0, []
        place = self.num_tokens[self._followed] - self._begins[self._followed]
        return self._followed, self._guessed[self._followed][place : place + MOST_GUESSES]

    def _take_guess(self, row: int, token_id: int) -> None:
        """Note a token that is committed now; the guesses behind it stay if it was guessed itself."""
        guessed, place, self._followed = self._guessed[row], self.num_tokens[row] - self._begins[row], row
        if guessed[place : place + 1] != [token_id]:
            guessed[place:] = [token_id]

    @property
    def _only_row(self) -> int | None:
        return 0 if self.rows == 1 else None

    def _attempts(self, out: Mapping[str, Buffer], visible_steps: Sequence[int], places: int) -> list[list[Attempt]]:
        """Return the attempts behind the first tokens of each row."""
        best = best_tokens(self._device, out, self._graphs[LLM].spec)
        logits, alignment = OnDevice(self._device, out[LOGITS]), OnDevice(self._device, out[ALIGNMENT])
        scored = len(best) // self.rows  # of each row; 1 for graphs that score the last token alone
        return [
            [
                Attempt(
                    *best[row * scored + place],
                    visible,
                    partial(log_probs, logits, row, place),
                    partial(alignment_of, alignment, row, [*self.memory.slots_of(visible), -1], place),
                )
                for place in range(places)
            ]
            for row, visible in enumerate(visible_steps)
        ]

    def _speech_feeds(self, visible: Ints) -> dict[str, Buffer]:
        """Return the inputs about speech, the memory among them if it must be bound again because it grew."""
        feeds: dict[str, Buffer] = {
            VISIBLE_STEPS: visible,
            WRITTEN_STEPS: np.array([self.memory.written], dtype=np.int64),
        }
        if self._bound_keys is not self.memory.keys:
            self._bound_keys = self.memory.keys
            feeds |= self.memory.inputs
        return feeds

    @abstractmethod
    def _run(self, tokens: Ints, visible: Ints) -> Mapping[str, Buffer]:
        """Run (rows, tokens); return the LLM's outputs and the attention (layers, rows, tokens, slots + 1)."""


def _key(num_tokens: Ints, queries: Ints, visible_steps: Sequence[int]) -> Hashable:
    """Return what the attempts of all rows depend on behind one path."""
    return num_tokens.tobytes(), queries.tobytes(), tuple(visible_steps)
