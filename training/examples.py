"""One training example: features, token ids, speech visibility and targets. numpy only.

Joins what the other modules make: an utterance, its features, a language pair's prompt and a schedule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bestow_edge.config import SUBSAMPLING, ModelConfig
from bestow_edge.errors import ManifestError
from bestow_edge.policy import Offline, Policy, WaitK
from bestow_edge.training.compose import Composed
from bestow_edge.training.schedule import heard_steps, make_schedule
from bestow_edge.training.stages import StageRecipe
from bestow_edge.training.tokens import answer_ids, prompt_ids

COUNTS = 16  # the encoder learns to count heard pieces modulo this
NO_LABEL = -1  # step at which no token is heard
IGNORED = -100  # target of positions without loss, PyTorch's default
NULL_FRAME = -1  # word steps of a position that has nothing to write


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a batch."""

    mel: npt.NDArray[np.float32]
    """(frames, mel_bins)"""
    token_ids: npt.NDArray[np.int64]
    """(tokens,) prompt and answer"""
    visible: npt.NDArray[np.int64]
    """(tokens,) speech steps each position sees"""
    targets: npt.NDArray[np.int64]
    """(tokens,) next token, `IGNORED` inside the prompt"""
    transcript_ids: npt.NDArray[np.int64]
    """(labels,) tokens of the transcript, for the CTC loss"""
    step_labels: npt.NDArray[np.int64]
    """(steps,) transcript token heard at each encoder step, -1 = none; a path through CTC's trellis"""
    step_counts: npt.NDArray[np.int64]
    """(steps,) pieces heard so far at each encoder step, modulo `COUNTS`"""
    word_steps: npt.NDArray[np.int64]
    """(tokens, 2) first step and end of the word each position writes next; `NULL_FRAME` where it writes none yet,
    `IGNORED` inside the prompt"""


def num_steps(num_frames: int) -> int:
    """Return the encoder steps of an utterance: step s hears mel frames up to 8 s (causal sub-sampling)."""
    return -(-(num_frames - 1) // SUBSAMPLING) + 1 if num_frames else 0


class ExampleMaker:
    """Turns utterances into examples for one model and one stage."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, stage: StageRecipe, end_id: int) -> None:
        """Encode the prompts once."""
        self.config = config
        self.tokenizer = tokenizer
        self.stage = stage
        self.end_id = end_id
        self.prompts = {pair: prompt_ids(tokenizer, pair, config.chat) for pair in config.pairs}

    def make(self, composed: Composed, mel: npt.NDArray[np.float32], rng: np.random.Generator) -> Example:
        """Draw a language pair and a policy and build the example.

        Args:
            composed: the utterance.
            mel: (frames, mel_bins) its features.
            rng: decides pair, policy and pauses.

        Raises:
            ManifestError: the utterance has no text for any of the model's pairs.
        """
        pairs = [pair for pair in self.config.pairs if self._serves(pair, composed)]
        if not pairs:
            spoken, trained = composed.source_lang, ", ".join(self.config.pairs)
            raise ManifestError(
                f"an utterance in {spoken!r} has no text for any of the pairs {trained}; add translations"
            )
        pair = pairs[rng.integers(len(pairs))]
        prompt = self.prompts[pair]
        answer, spans_s = self._tokens(composed, pair.split("-")[1])
        transcript, _ = self._tokens(composed, composed.source_lang)
        source_steps = num_steps(mel.shape[0])
        schedule = make_schedule(
            self._policy(rng),
            prompt_tokens=len(prompt),
            heard=heard_steps(spans_s[:, 1], self.config.features.step_s, source_steps),
            source_steps=source_steps,
            pauses=self.stage.pauses,
            rng=rng,
        )
        next_tokens = np.array([*answer, self.end_id], dtype=np.int64)
        targets = np.full(len(prompt) + len(answer), IGNORED, dtype=np.int64)
        targets[len(prompt) - 1 :] = np.where(schedule.paused, self.end_id, next_tokens)
        words = np.full((targets.size, 2), IGNORED, dtype=np.int64)
        words[len(prompt) - 1 :] = NULL_FRAME
        words[len(prompt) - 1 : targets.size - 1] = self._word_steps(spans_s, source_steps)
        words[len(prompt) - 1 :][schedule.paused] = NULL_FRAME
        return Example(
            mel=mel,
            token_ids=np.array([*prompt, *answer], dtype=np.int64),
            visible=schedule.visible,
            targets=targets,
            transcript_ids=np.array(transcript, dtype=np.int64),
            step_labels=self._step_labels(composed, source_steps),
            step_counts=self._step_counts(composed, source_steps),
            word_steps=words,
        )

    def _word_steps(self, spans_s: npt.NDArray[np.float64], source_steps: int) -> npt.NDArray[np.int64]:
        """Return (words, 2) steps a word may be found in: from its onset to one step after its end."""
        first, last = (spans_s / self.config.features.step_s).T
        ends = np.minimum(np.ceil(last).astype(np.int64) + 2, source_steps)
        return np.stack([np.minimum(np.floor(first).astype(np.int64), ends - 1), ends], axis=1)

    def _step_labels(self, composed: Composed, source_steps: int) -> npt.NDArray[np.int64]:
        """Label the steps of the second half of each piece with its tokens, in equal shares.

        A streaming encoder cannot know a word by its onset, hence the second half.
        """
        labels = np.full(source_steps, NO_LABEL, dtype=np.int64)
        step_s = self.config.features.step_s
        for piece in composed.pieces:
            ids = answer_ids(self.tokenizer, piece.texts[composed.source_lang])
            middle_s = (piece.start_s + piece.end_s) / 2
            edges = np.linspace(middle_s / step_s, piece.end_s / step_s + 1, len(ids) + 1)
            for token_id, first, last in zip(ids, edges[:-1], edges[1:], strict=True):
                labels[round(first) : max(round(first) + 1, round(last))] = token_id
        return labels

    def _step_counts(self, composed: Composed, source_steps: int) -> npt.NDArray[np.int64]:
        middles_s = np.array([(piece.start_s + piece.end_s) / 2 for piece in composed.pieces])
        steps_s = (np.arange(source_steps) + 0.5) * self.config.features.step_s
        return np.searchsorted(middles_s, steps_s).astype(np.int64) % COUNTS

    def _serves(self, pair: str, composed: Composed) -> bool:
        source, target = pair.split("-")
        return source == composed.source_lang and all(target in piece.texts for piece in composed.pieces)

    def _policy(self, rng: np.random.Generator) -> Policy:
        if rng.random() >= self.stage.streaming:
            return Offline()
        return WaitK(int(rng.integers(self.stage.k_min, self.stage.k_max + 1)), self.config.policy.l)

    def _tokens(self, composed: Composed, language: str) -> tuple[list[int], npt.NDArray[np.float64]]:
        tokens: list[int] = []
        spans: list[tuple[float, float]] = []
        for piece in composed.pieces:
            if language in piece.texts:
                ids = answer_ids(self.tokenizer, piece.texts[language])
                tokens += ids
                spans += [(piece.start_s, piece.end_s)] * len(ids)
        return tokens, np.array(spans, dtype=np.float64).reshape(-1, 2)
