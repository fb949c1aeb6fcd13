"""Connector kind `cross_layers`: the `decoder_step` graph, which reads the newest encoding of the segment.

Each encoding replaces the one before, so the caches of a text belong to one encoding: when new speech was heard, the
next attempt runs the text so far once more, all its tokens at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import numpy.typing as npt

from bestow_edge.core.bundle import BundleManifest
from bestow_edge.core.specs.cross_layers import GRAPH
from bestow_edge.core.tensors import ALIGNMENT, LANGUAGE_LOGITS, LOGITS, MEMORY, TOKEN_IDS, by_layer
from bestow_edge.runtime.decoders.base import Attempt, Floats, no_languages
from bestow_edge.runtime.decoders.cached_graph import CachedGraph, Ints
from bestow_edge.runtime.decoders.rehearsed import Rehearsed
from bestow_edge.runtime.decoders.scores import OnDevice, best_tokens, log_probs
from bestow_edge.runtime.devices.base import Buffer, Graph
from bestow_edge.runtime.encoders.base import SpeechSteps


class CrossLayersDecoder:
    """The decoder of LLMs whose layers attend to speech: the texts of a segment share its newest encoding."""

    def __init__(
        self, graph: Graph, prompts: Sequence[Sequence[int]], positions_per_step: int, speech: SpeechSteps | None = None
    ) -> None:
        """Take the prompts; they are run at the first attempt.

        Args:
            graph: `decoder_step`.
            prompts: token ids of each row's whole prompt.
            positions_per_step: positions of the encoder in one step.
            speech: the newest encoding of the segment.
        """
        self._graph, self._positions_per_step, self._speech = graph, positions_per_step, speech
        self._step = CachedGraph(graph, len(prompts))
        self._texts = [list(prompt) for prompt in prompts]  # prompt and answer, the next query last
        self._stale = True  # the caches are of an older encoding, or empty
        self._rehearsed = Rehearsed()

    @property
    def rows(self) -> int:
        """Texts decoded at once."""
        return len(self._texts)

    @property
    def num_tokens(self) -> npt.NDArray[np.int64]:
        """(rows,) committed tokens, prompt included."""
        return np.array([len(text) - 1 for text in self._texts], dtype=np.int64)

    @property
    def heard(self) -> int:
        """See `Decoder`."""
        return self._speech.end if self._speech is not None else 0

    def hear(self, speech: SpeechSteps) -> None:
        """Replace the encoding: the new one is of all the segment so far."""
        self._rehearsed.forget()
        self._speech, self._stale = speech, True

    def end(self) -> None:
        """Nothing to do: what is visible does not depend on the end."""

    @contextmanager
    def supposing(self, speech: Sequence[SpeechSteps]) -> Iterator[None]:
        """See `Decoder`."""
        kept = self._speech
        for steps in speech:
            self.hear(steps)
        try:
            yield
        finally:
            self._rehearsed.forget()
            self._speech, self._stale = kept, self._stale or bool(speech)

    def branch(self, prompts: Sequence[Sequence[int]]) -> CrossLayersDecoder:
        """See `Decoder`."""
        return CrossLayersDecoder(self._graph, prompts, self._positions_per_step, self._speech)

    def attempt(self, visible_steps: Sequence[int]) -> list[Attempt]:
        """See `Decoder`; every token sees the whole encoding, whatever its row may see."""
        if (speech := self._speech) is None:
            raise RuntimeError("an attempt before any speech was heard")
        key = tuple((len(text), text[-1]) for text in self._texts), tuple(visible_steps)
        return self._rehearsed.attempt(key, lambda: [(key, self._predict(speech, visible_steps))])

    def _predict(self, speech: SpeechSteps, visible_steps: Sequence[int]) -> list[Attempt]:
        """Run the queries, behind the texts if the encoding is new."""
        first = speech.start  # later than 0 if the segment is longer than the encoder's window
        out = self._run_texts(speech) if self._stale else self._run_queries()
        best = best_tokens(self._graph.device, out, self._graph.spec)
        logits, alignment = OnDevice(self._graph.device, out[LOGITS]), OnDevice(self._graph.device, out[ALIGNMENT])
        return [
            Attempt(
                *best[row],
                visible,
                partial(log_probs, logits, row),
                partial(self._by_step, alignment, row, visible - first),
                partial(self._languages, out, row),
            )
            for row, visible in enumerate(visible_steps)
        ]

    def commit(self, row: int, token_id: int) -> None:
        """Make the last attempt's query of a row part of its past and `token_id` its next query."""
        self._texts[row].append(token_id)
        self._step.past_tokens[row] += 1

    def take_rows(self, rows: Sequence[int]) -> None:
        """Replace each row i by a copy of row `rows[i]`."""
        self._rehearsed.forget()
        self._texts = [list(self._texts[row]) for row in rows]
        self._step.take_rows(np.array(rows, dtype=np.int64))

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """See `Decoder`."""
        lengths = [len(text) for text in self._texts]
        try:
            with self._rehearsed.rehearsal():
                yield
        finally:
            self._texts = [text[:length] for text, length in zip(self._texts, lengths, strict=True)]
            self._step.past_tokens[:] = 0 if self._stale else self.num_tokens

    def _run_texts(self, speech: SpeechSteps) -> Mapping[str, Buffer]:
        """Run each text about the newest encoding: with its query if all are equally long, else the queries after."""
        memory: dict[str, Buffer] = {
            f"{MEMORY}{name}": speech.tensors[name][0] for name in by_layer(len(speech.tensors) // 2)
        }
        self._step.past_tokens[:] = 0
        self._stale = False
        longest = int(self.num_tokens.max())
        if longest == self.num_tokens.min():
            out = self._run(np.array(self._texts, dtype=np.int64), memory)
            self._step.past_tokens[:] = longest
            return out
        self._run(np.array([text[:-1] + [0] * (longest + 1 - len(text)) for text in self._texts]), memory)
        self._step.past_tokens[:] = self.num_tokens
        return self._run_queries()

    def _run_queries(self) -> Mapping[str, Buffer]:
        """Run the query of each row."""
        return self._run(np.array([text[-1:] for text in self._texts], dtype=np.int64))

    def _run(self, tokens: Ints, memory: Mapping[str, Buffer] | None = None) -> Mapping[str, Buffer]:
        """Run (rows, tokens); the memory is bound once for an encoding."""
        return self._step.run({TOKEN_IDS: tokens, **(memory or {})}, tokens.shape[1])

    def _languages(self, out: Mapping[str, Buffer], row: int) -> Floats:
        """Return the logits of the languages that the model detects, (languages,)."""
        if LANGUAGE_LOGITS not in out:
            return no_languages()
        logits: Floats = self._graph.device.get(out[LANGUAGE_LOGITS])[0][row]
        return logits

    def _by_step(self, alignment: OnDevice, row: int, count: int) -> Floats:
        """Return the last token's attention to the encoding's first steps and, last, to all behind, (1, count + 1)."""
        positions: Floats = alignment.array[:, row, -1]
        end = count * self._positions_per_step
        steps = positions[:, :end].reshape(1, count, self._positions_per_step).sum(-1)
        return np.concatenate([steps, positions[:, end:].sum(-1, keepdims=True)], axis=-1)


def open_decoder(
    graphs: Mapping[str, Graph], manifest: BundleManifest, prompts: Sequence[Sequence[int]]
) -> CrossLayersDecoder:
    """Return a decoder that has heard no speech."""
    return CrossLayersDecoder(graphs[GRAPH], prompts, manifest.model.encoder.positions_per_step)
