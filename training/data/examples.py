"""One training example: features, token ids, speech visibility and targets. numpy only.

`training.data.corpora` chooses the utterance and its prompt and makes the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.policy import Offline, Policy, WaitK
from bestow_edge.core.prompts import Pair, Question
from bestow_edge.core.specs.interleave import delay_token, interleave
from bestow_edge.training.data.tokens import prompt_ids
from bestow_edge.training.data.turns import due_steps, make_stream, make_turns
from bestow_edge.training.data.visibility import Ints, heard_steps, make_schedule
from bestow_edge.training.recipe.stages import StageRecipe

FRAMES_PER_S = 100  # mel frames
COUNTS = 16  # the encoder learns the number of heard words modulo this
NO_LABEL = -1  # label of a step without a token
IGNORED = -100  # target of positions without loss, PyTorch's default
NULL_FRAME = -1  # word steps of a position that writes no word yet
CUT_S = 0.1  # a word that ends within this of the end of a prefix may be cut off, so it is left out
REORDER_S = 0.6  # a translation of a prefix lacks the words of its last part, which may stand elsewhere in a sentence
SHORTEST_PREFIX_S = 0.2
Word = tuple[Sequence[int], float, float]  # token ids, start and end in seconds


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a batch."""

    mel: npt.NDArray[np.float32]
    """(frames, mel_bins)"""
    token_ids: npt.NDArray[np.int64]
    """(tokens,) prompt and answer, and the places of speech where it stands in the sequence"""
    visible: npt.NDArray[np.int64]
    """(tokens,) speech steps each position sees"""
    targets: npt.NDArray[np.int64]
    """(tokens,) next token, `IGNORED` inside the prompt"""
    transcript_ids: npt.NDArray[np.int64]
    """(labels,) tokens of the transcript, for the CTC loss"""
    step_labels: npt.NDArray[np.int64]
    """(steps,) transcript token at each encoder step, `NO_LABEL` between tokens; `IGNORED` if word
    times are unknown"""
    step_counts: npt.NDArray[np.int64]
    """(steps,) words heard until each encoder step, modulo `COUNTS`; `IGNORED` if word times are unknown"""
    word_steps: npt.NDArray[np.int64]
    """(tokens, 2) first step and end of the word that each position writes next, all steps if its time is unknown;
    `NULL_FRAME` if it does not write yet, `IGNORED` inside the prompt"""


class ExampleMaker:
    """Turns utterances into examples for one model and one stage."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer,
        stage: StageRecipe,
        end_id: int,
        labels: Tokenizer | None = None,
    ) -> None:
        """Encode the prompts once.

        `end_id` is the token that ends an answer. `labels` encodes transcripts for losses on the encoder's output; None
        = the tokenizer of prompts and answers does.
        """
        self.config = config
        self.tokenizer = tokenizer
        self.labels = tokenizer if labels is None else labels
        self.stage = stage
        self.end_id = end_id
        self.prompts = {pair: prompt_ids(tokenizer, pair, config.chat) for pair in config.pairs}

    def prompt(self, asked: Pair | Question) -> list[int]:
        """Return the token ids of the prompt of a language pair of the model, or of a question."""
        if isinstance(asked, Pair):
            return self.prompts[str(asked)]
        return prompt_ids(self.tokenizer, asked, self.config.chat)

    def prefix_s(self, duration_s: float, rng: np.random.Generator) -> float | None:
        """Draw how much of an utterance is heard, in seconds; None = all of it."""
        if not self.stage.prefixes or rng.random() >= self.stage.prefixes or duration_s <= SHORTEST_PREFIX_S:
            return None
        return float(rng.uniform(SHORTEST_PREFIX_S, duration_s))

    def build(
        self,
        mel: npt.NDArray[np.float32],
        rng: np.random.Generator,
        *,
        prompt: Sequence[int],
        answer: Sequence[int],
        spans_s: npt.NDArray[np.float64],
        transcript: Sequence[int],
        words: Sequence[Word] | None,
        heard_s: npt.NDArray[np.float64] | None = None,
        prefix_s: float | None = None,
    ) -> Example:
        """Draw a policy and build an example of speech.

        Args:
            mel: (frames, mel_bins) features.
            rng: draws policy and pauses.
            prompt: token ids of the prompt.
            answer: token ids of the answer, without the end token.
            spans_s: (answer, 2) start and end of the word of each answer token, seconds; NaN = unknown.
            transcript: labels of the transcript, for CTC.
            words: labels, start and end of each spoken word; None = the times are unknown.
            heard_s: (answer,) time from which each answer token may be written, NaN = unknown; None = the end of its
                span.
            prefix_s: seconds of the utterance in `mel`; the answer ends with the words heard by then. None = all.

        Raises:
            ConfigError: if speech and text are longer than the LLM's context.
        """
        source_steps = self.config.encoder.num_steps(mel.shape[0])
        self._check_room(source_steps, len(prompt) + len(answer))
        heard_s = spans_s[:, 1] if heard_s is None else heard_s
        if prefix_s is not None:
            kept = heard_tokens(heard_s, spans_s, prefix_s)
            answer, spans_s, heard_s = answer[:kept], spans_s[:kept], heard_s[:kept]
            words = [word for word in words or () if word[2] <= prefix_s - CUT_S]
            transcript = [label for labels, _, _ in words for label in labels]
        heard = heard_steps(heard_s, self.config.step_s, source_steps)
        layout = self._turns if CONNECTORS[self.config.connector.kind].continuous else self._masked
        token_ids, visible, targets, written = layout(prompt, answer, spans_s, heard, source_steps, rng)
        unknown = np.full(source_steps, IGNORED, dtype=np.int64)
        return Example(
            mel=mel,
            token_ids=token_ids,
            visible=visible,
            targets=targets,
            transcript_ids=np.array(transcript, dtype=np.int64),
            step_labels=unknown if words is None else self._step_labels(words, source_steps),
            step_counts=unknown if words is None else self._step_counts(words, source_steps),
            word_steps=written,
        )

    def _masked(
        self,
        prompt: Sequence[int],
        answer: Sequence[int],
        spans_s: npt.NDArray[np.float64],
        heard: Ints,
        source_steps: int,
        rng: np.random.Generator,
    ) -> tuple[Ints, Ints, Ints, Ints]:
        """Return token ids, visible steps, targets and word steps of prompt and answer under a policy that is drawn."""
        schedule = make_schedule(
            self._policy(rng),
            prompt_tokens=len(prompt),
            heard=heard,
            source_steps=source_steps,
            pauses=self.stage.pauses,
            rng=rng,
        )
        targets = np.full(len(prompt) + len(answer), IGNORED, dtype=np.int64)
        targets[len(prompt) - 1 :] = np.where(schedule.paused, self.end_id, [*answer, self.end_id])
        written = np.full((targets.size, 2), IGNORED, dtype=np.int64)
        written[len(prompt) - 1 :] = NULL_FRAME
        written[len(prompt) - 1 : targets.size - 1] = self._word_steps(spans_s, source_steps)
        written[len(prompt) - 1 :][schedule.paused] = NULL_FRAME
        return np.array([*prompt, *answer], dtype=np.int64), schedule.visible, targets, written

    def _turns(
        self,
        prompt: Sequence[int],
        answer: Sequence[int],
        spans_s: npt.NDArray[np.float64],  # noqa: ARG002 - there is no attention to teach
        heard: Ints,
        source_steps: int,
        rng: np.random.Generator,
    ) -> tuple[Ints, Ints, Ints, Ints]:
        """Return the same of speech and text in one sequence, for a delay that is drawn."""
        connector = interleave(self.config)
        delay = int(rng.choice(connector.delays))
        line_up = make_stream if connector.form == "additive" else partial(make_turns, turn_steps=self.config.policy.l)
        turns = line_up(
            [*prompt, delay_token(self.config, delay)],
            answer,
            due_steps(heard, delay, source_steps),
            source_steps=source_steps,
            end_id=self.end_id,
            ignored=IGNORED,
        )
        return turns.token_ids, turns.visible, turns.targets, np.full((turns.targets.size, 2), IGNORED, dtype=np.int64)

    def _check_room(self, source_steps: int, tokens: int) -> None:
        """Refuse an utterance that the LLM's context does not hold, where speech takes positions of it.

        Raises:
            ConfigError: if it is too long.
        """
        positions, most = self.config.connector.llm_positions(source_steps), self.config.max_text_tokens
        if positions and positions + tokens > most:
            seconds = source_steps * self.config.step_s
            got = f"an utterance of {seconds:.1f} s takes {positions} positions and {tokens} tokens"
            remedy = "lower data.filter.max_s or the stage's pieces, or take an LLM with a longer one"
            raise ConfigError(f"data: {got}, but the LLM's context has {most}; {remedy}")

    def build_text(self, prompt: Sequence[int], answer: Sequence[int]) -> Example:
        """Build an example without speech. Its positions see the null frame only; a prompt has one token or more."""
        targets = np.full(len(prompt) + len(answer), IGNORED, dtype=np.int64)
        targets[len(prompt) - 1 :] = [*answer, self.end_id]
        written = np.full((targets.size, 2), IGNORED, dtype=np.int64)
        written[len(prompt) - 1 :] = NULL_FRAME
        nothing = np.zeros(0, dtype=np.int64)
        return Example(
            mel=np.zeros((0, self.config.features.num_mel_bins), dtype=np.float32),
            token_ids=np.array([*prompt, *answer], dtype=np.int64),
            visible=np.zeros(targets.size, dtype=np.int64),
            targets=targets,
            transcript_ids=nothing,
            step_labels=nothing,
            step_counts=nothing,
            word_steps=written,
        )

    def _word_steps(self, spans_s: npt.NDArray[np.float64], source_steps: int) -> npt.NDArray[np.int64]:
        """Return (words, 2) the steps of each word, from its onset to one step after its end; all steps if unknown."""
        known = ~np.isnan(spans_s[:, 1])
        first, last = (np.nan_to_num(spans_s) / self.config.step_s).T
        ends = np.minimum(np.ceil(last).astype(np.int64) + 2, source_steps)
        begins = np.minimum(np.floor(first).astype(np.int64), ends - 1)
        return np.stack([np.where(known, begins, 0), np.where(known, ends, source_steps)], axis=1)

    def _step_labels(self, words: Sequence[Word], source_steps: int) -> npt.NDArray[np.int64]:
        """Label the steps of each word with its labels, in equal shares.

        A streaming encoder cannot recognise a label at its onset, so each one begins half a label late.
        """
        labels = np.full(source_steps, NO_LABEL, dtype=np.int64)
        step_s = self.config.step_s
        for ids, start_s, end_s in words:
            late_s = (end_s - start_s) / (2 * max(1, len(ids)))
            edges = np.linspace((start_s + late_s) / step_s, end_s / step_s + 1, len(ids) + 1)
            for token_id, first, last in zip(ids, edges[:-1], edges[1:], strict=True):
                labels[round(first) : max(round(first) + 1, round(last))] = token_id
        return labels

    def _step_counts(self, words: Sequence[Word], source_steps: int) -> npt.NDArray[np.int64]:
        middles_s = np.array([(start_s + end_s) / 2 for _, start_s, end_s in words])
        steps_s = (np.arange(source_steps) + 0.5) * self.config.step_s
        return np.searchsorted(middles_s, steps_s).astype(np.int64) % COUNTS

    def _policy(self, rng: np.random.Generator) -> Policy:
        if rng.random() >= self.stage.streaming:
            return Offline()
        return WaitK(int(rng.integers(self.stage.k_min, self.stage.k_max + 1)), self.config.policy.l)


def heard_tokens(heard_s: npt.NDArray[np.float64], spans_s: npt.NDArray[np.float64], prefix_s: float) -> int:
    """Return how many tokens of an answer a prefix of the speech has words for.

    Args:
        heard_s: (answer,) time from which each token may be written, seconds.
        spans_s: (answer, 2) start and end of the word of each token, seconds; NaN = it is a translation's.
        prefix_s: seconds of the prefix.
    """
    ready_s = heard_s + np.where(np.isnan(spans_s[:, 1]), REORDER_S, CUT_S)
    late = ~(ready_s <= prefix_s)
    return int(late.argmax()) if late.any() else len(late)
