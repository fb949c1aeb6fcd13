"""Connector kind `prepend`: the `token_embedding` and `llm_step` graphs, with speech in the LLM's own sequence.

A row's sequence is: the prompt before the speech, the speech, the rest of the prompt, the answer. Keys and values of
the first two stay in the cache as speech grows: no step is run twice, unless its encoder changed it. The rest stands
behind the speech that a token sees; when a row sees more, its rest is run again, all its tokens at once. A Q-Former
over all steps, or a compressor of an encoder that encodes everything again, replaces all of the speech each time. Where
speech sees all speech (mask `non_causal`), more of it changes its keys and values, so all of it is run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import numpy.typing as npt

from bestow_edge.core.bundle import BundleManifest
from bestow_edge.core.specs.llm import EMBEDDING, MUTUAL_TOKENS
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.specs.prepend import PrependConfig, prepend
from bestow_edge.core.tensors import INPUTS_EMBEDS, LOGITS, TOKEN_IDS
from bestow_edge.runtime.decoders.base import Attempt
from bestow_edge.runtime.decoders.cached_graph import CachedGraph
from bestow_edge.runtime.decoders.scores import OnDevice, best_tokens, log_probs
from bestow_edge.runtime.decoders.speech_prefix import SpeechPrefix, no_speech
from bestow_edge.runtime.devices.base import Buffer, Graph
from bestow_edge.runtime.encoders.base import SpeechSteps

UNRUN = -1  # no rest of a sequence is in the cache


class PrependDecoder:
    """The decoder of LLMs that read speech in their sequence: the texts of a segment share its embeddings."""

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        config: PrependConfig,
        prompts: Sequence[Sequence[int]],
        speech: SpeechPrefix | None = None,
    ) -> None:
        """Run the prompts up to the speech.

        Args:
            graphs: of the bundle, by name.
            config: the connector's.
            prompts: token ids of each row's whole prompt.
            speech: heard so far.
        """
        self._graphs, self._config = graphs, config
        self._embedding, self._llm = graphs[EMBEDDING].runner(), CachedGraph(graphs[LLM], len(prompts))
        self._device = graphs[LLM].device
        slots = [list(prompt).index(config.speech_token) for prompt in prompts]
        self._texts = [list(prompt[slot + 1 :]) for prompt, slot in zip(prompts, slots, strict=True)]
        """Tokens of each row behind the speech, the next query last."""
        self._first = np.array(slots, dtype=np.int64)
        """(rows,) tokens of each row before the speech."""
        self._speech = no_speech(config) if speech is None else speech
        self._mutual = MUTUAL_TOKENS in graphs[LLM].spec.input_names  # positions of speech see each other
        self._cached = 0  # positions of speech in the cache
        self._seen = np.full(len(prompts), UNRUN)
        """(rows,) positions of speech before the rest of each row that is in the cache."""
        if self._mutual:
            self._llm.runner.bind({MUTUAL_TOKENS: np.zeros_like(self._first)})
        self._run_tokens([list(prompt[:slot]) for prompt, slot in zip(prompts, slots, strict=True)])

    @property
    def rows(self) -> int:
        """Texts decoded at once."""
        return len(self._texts)

    @property
    def num_tokens(self) -> npt.NDArray[np.int64]:
        """(rows,) committed tokens, prompt included; speech does not count."""
        return self._first + np.array([len(text) - 1 for text in self._texts], dtype=np.int64)

    @property
    def heard(self) -> int:
        """See `Decoder`."""
        return self._speech.heard

    def hear(self, speech: SpeechSteps) -> None:
        """Take in more speech; steps that it overwrites are run again, those before them stay in the cache."""
        first = self._speech.positions(speech.start)
        self._speech = self._speech.hear(speech, self._device)
        self._forget(first)

    def end(self) -> None:
        """Nothing to do: what is visible does not depend on the end."""

    @contextmanager
    def supposing(self, speech: Sequence[SpeechSteps]) -> Iterator[None]:
        """See `Decoder`."""
        kept = self._speech
        first = min([len(kept.embeds), *(kept.positions(steps.start) for steps in speech)])
        for steps in speech:
            self.hear(steps)
        try:
            yield
        finally:
            self._speech = kept
            self._forget(first)

    def branch(self, prompts: Sequence[Sequence[int]]) -> PrependDecoder:
        """See `Decoder`."""
        return PrependDecoder(self._graphs, self._config, prompts, self._speech)

    def attempt(self, visible_steps: Sequence[int]) -> list[Attempt]:
        """See `Decoder`. A row with 0 visible steps sees what it saw before; its attempt is not used."""
        wanted = np.array([self._speech.positions(steps) for steps in visible_steps], dtype=np.int64)
        seen = np.where(np.array(visible_steps) > 0, wanted, np.maximum(self._seen, 0))
        if not self._mutual:
            self._run_speech()
        if (seen != self._seen).any():
            if self._mutual:
                self._run_all_speech(seen)
            self._seen = seen
            self._llm.past_tokens[:] = self._first + seen
            self._run_tokens([text[:-1] for text in self._texts])
        out = self._run(self._embeds([text[-1:] for text in self._texts]))
        best = best_tokens(self._device, out, self._graphs[LLM].spec)
        logits = OnDevice(self._device, out[LOGITS])
        return [
            Attempt(*best[row], visible, partial(log_probs, logits, row)) for row, visible in enumerate(visible_steps)
        ]

    def commit(self, row: int, token_id: int) -> None:
        """Make the last attempt's query of a row part of its past and `token_id` its next query."""
        self._texts[row].append(token_id)
        self._llm.past_tokens[row] += 1

    def take_rows(self, rows: Sequence[int]) -> None:
        """Replace each row i by a copy of row `rows[i]`."""
        order = np.array(rows, dtype=np.int64)
        self._texts = [list(self._texts[row]) for row in rows]
        self._first, self._seen = self._first[order], self._seen[order]
        self._llm.take_rows(order)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """See `Decoder`."""
        lengths = [len(text) for text in self._texts]
        try:
            yield
        finally:
            surplus = [len(text) - length for text, length in zip(self._texts, lengths, strict=True)]
            self._texts = [text[:length] for text, length in zip(self._texts, lengths, strict=True)]
            self._llm.past_tokens -= surplus

    def _forget(self, position: int) -> None:
        """Forget what is in the cache from a position of the speech on."""
        self._cached = min(self._cached, position)
        self._seen[self._seen > position] = UNRUN

    def _run_speech(self) -> None:
        """Put the speech that is not yet in the cache there, in each row; it overwrites what stands behind."""
        if (heard := len(self._speech.embeds)) == self._cached:
            return
        new = self._speech.embeds[self._cached :]
        self._llm.past_tokens[:] = self._first + self._cached
        self._run(np.broadcast_to(new, (self.rows, *new.shape)))
        self._cached, self._seen[:] = heard, UNRUN

    def _run_all_speech(self, seen: npt.NDArray[np.int64]) -> None:
        """Run the speech that each row sees, (rows,) positions, which see each other."""
        if longest := int(seen.max()):
            self._llm.past_tokens[:] = self._first
            self._llm.runner.bind({MUTUAL_TOKENS: seen})
            self._run(
                np.broadcast_to(self._speech.embeds[:longest], (self.rows, longest, self._speech.embeds.shape[1]))
            )
            self._llm.runner.bind({MUTUAL_TOKENS: np.zeros_like(seen)})

    def _run_tokens(self, rows: Sequence[Sequence[int]]) -> None:
        """Put tokens into the cache: those of a row that is shorter than others are followed by ones to overwrite."""
        if any(rows):
            self._run(self._embeds(rows))
            self._llm.past_tokens += np.array([len(row) for row in rows], dtype=np.int64)

    def _embeds(self, rows: Sequence[Sequence[int]]) -> Buffer:
        """Return the embeddings of tokens, (rows, tokens, hidden)."""
        longest = max(map(len, rows))
        ids = np.array([[*row, *[0] * (longest - len(row))] for row in rows], dtype=np.int64)
        self._embedding.bind({TOKEN_IDS: ids})
        return self._embedding.run()[INPUTS_EMBEDS]

    def _run(self, embeds: Buffer) -> Mapping[str, Buffer]:
        return self._llm.run({INPUTS_EMBEDS: embeds}, embeds.shape[1])


def open_decoder(
    graphs: Mapping[str, Graph], manifest: BundleManifest, prompts: Sequence[Sequence[int]]
) -> PrependDecoder:
    """Return a decoder that has heard no speech."""
    return PrependDecoder(graphs, prepend(manifest.model), prompts)
