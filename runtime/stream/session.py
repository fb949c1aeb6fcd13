"""A session: audio in, events out, for one stream and one or several prompts about it.

The text depends on the audio, the policies and the look-ahead alone, not on the sizes of blocks and not on their times:
the policies count encoder steps, and the session waits for them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bestow_edge.core.config import SegmentConfig
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.errors import DeviceError, EngineError, GraphError, SessionError
from bestow_edge.core.hotwords import Hotword
from bestow_edge.core.prompts import Question
from bestow_edge.runtime.audio.samples import check_block
from bestow_edge.runtime.decoders.base import Attempt
from bestow_edge.runtime.stream.answer import Prompt, open_answer
from bestow_edge.runtime.stream.answers import Answers
from bestow_edge.runtime.stream.beam import beam_search
from bestow_edge.runtime.stream.events import Decision, Event, Verdict
from bestow_edge.runtime.stream.hotwords import HotwordTrie, with_hotwords
from bestow_edge.runtime.stream.language import SpokenLanguage
from bestow_edge.runtime.stream.listener import Listener
from bestow_edge.runtime.stream.loop import chosen, decide
from bestow_edge.runtime.stream.segments import LOUDER, limits, only_word, quietest, whole_words
from bestow_edge.runtime.stream.text import Detokenizer
from bestow_edge.runtime.stream.writer import Clock, Writer

if TYPE_CHECKING:
    from bestow_edge.runtime.model import Model

REPLAY_STEPS = 12  # 0.96 s: a word that a segment's end cuts begins within it


class Session:
    """One stream of audio and its texts. `Model.session` and `Model.multi_session` open it."""

    def __init__(
        self,
        model: Model,
        *,
        prompts: Sequence[Prompt],
        lookahead: int,
        segments: SegmentConfig,
        beam_size: int = 1,
        hotwords: Sequence[Hotword] = (),
    ) -> None:
        """Prefill the prompts, so that the first token costs no more than a later one.

        Their texts are decoded as one batch. `lookahead` is the right context of the encoder, steps; a `beam_size` of 1
        is a greedy search.

        Raises:
            ConfigError: if a limit of `segments` is too small, or the LLM's context too short for it.
            PromptError: if a question cannot be asked, see `question_ids`, or a hotword cannot be written.
        """
        self.model = model
        """The model that it runs."""
        self.prompts = tuple(prompts)
        self.lookahead, self.beam_size = lookahead, beam_size
        self.segments, self.hotwords = segments, tuple(hotwords)
        self._trie = HotwordTrie(model.tokenizer, hotwords) if hotwords else None
        self._prefer = partial(with_hotwords, trie=self._trie, end_ids=model.manifest.end_ids)
        self.segment = 0
        self.on_decision: Callable[[Decision], None] | None = None
        """Called with every decision, except those of drafts."""
        self._kind = CONNECTORS[model.config.connector.kind]
        self._spoken = SpokenLanguage(model, [prompt.asked for prompt in prompts], self.hotwords)
        policies = [prompt.policy for prompt in prompts]
        most_tokens, max_text_tokens = self._spoken.most_tokens(), model.manifest.max_text_tokens
        self._limits = limits(
            segments, model.config, policies, prompt_tokens=most_tokens, max_text_tokens=max_text_tokens
        )
        self._graphs = model.graphs
        self._open_encoder = partial(
            model.open_encoder, policies=policies, right_context=lookahead, segment_steps=self._limits.most_steps
        )
        self._listener = Listener(
            self._open_encoder(self._graphs), model.executor, rate_hz=model.sample_rate_hz, silence_s=segments.silence_s
        )
        self._ended = False
        self._answered = False  # whether the answers to questions saw all of the speech
        self._background: float | None = None  # level of the segment before if it had no words
        self._clock = Clock(model.config.step_s, segments.silence_s[0])
        texts = [not isinstance(prompt.asked, Question) for prompt in prompts]
        self._writer = Writer(model.tokenizer, self._clock, texts)
        self._begin_segment([()] * len(prompts))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended = True

    def feed(self, samples: npt.NDArray[np.float32]) -> list[Event]:
        """Hear a block of audio and return its events.

        Args:
            samples: (samples,) float32 mono at the model's rate, any number of them, full scale 1.

        Raises:
            SessionError: if the session was finished.
            AudioError: if the block is not one-dimensional float32, or holds NaN or infinity.
            GraphError: if a graph fails or returns no token of the vocabulary; the session has ended then.
        """
        with self._running():
            check_block(samples)
            self._listener.add(samples)
            events: list[Event] = []
            while self._listener.has_chunk:  # one by one: a new segment restarts the encoder
                self._hear()
                events += list(self._write())
            return events

    def finish(self) -> list[Event]:
        """End the audio and return the events of the rest of the text.

        Raises:
            SessionError: if the session was finished before.
        """
        with self._running():
            self._listener.end()
            self._clock.end_s = self._listener.end_s
            events: list[Event] = []
            answers = None
            while answers is not self._answers:  # a segment may fill up or end early: the next one hears the rest
                answers = self._answers
                while self._listener.has_chunk:
                    self._hear()
                self._decoder.end()
                events += list(self._search() if self.beam_size > 1 else self._write())
                if answers is self._answers and self._answers.ended_early(self._decoder.heard):
                    self._answered = True
                    events += list(self._next_segment(min(self._answers.heard_ends())))
            self._ended = True
            return events + list(self._writer.end())

    def draft(self, prompt: int = 0) -> str:
        """Return the text that would follow for a prompt if the audio ended now; the session does not change.

        Raises:
            SessionError: if the session was finished.
        """
        detokenizer = Detokenizer(self.model.tokenizer, self._writer.prefix)
        for word in self._answers.all[prompt].words:
            detokenizer.push(word.token_id)
        with self._running(), self._supposing_the_end():
            if not self._decoder.heard:
                return ""
            attempts = self._rehearse(prompt, self._decoder.heard)
            return "".join(detokenizer.push(attempt.token_id) for attempt in attempts)

    @property
    def language(self) -> str | None:
        """Language of the speech; None until it is detected, which is when the first text is written."""
        return self._spoken.code if self._spoken.settled else None

    @property
    def sample_rate_hz(self) -> int:
        """Rate that `feed` expects."""
        return self.model.sample_rate_hz

    @property
    def heard_s(self) -> float:
        """Seconds of audio that the decoder has heard."""
        return self._clock(self._decoder.heard)

    @property
    def segment_start_s(self) -> float:
        """Begin of the current segment in the stream, seconds."""
        return self._clock(0)

    @property
    def num_tokens(self) -> int:
        """Tokens of the longest text of the current segment, including its prompt."""
        return int(self._decoder.num_tokens.max())

    def _begin_segment(self, contexts: Sequence[tuple[int, ...]]) -> None:
        """Begin with fresh prompts, caches and speech memory; `contexts` are the tokens to repeat for each prompt."""
        self._contexts = contexts
        self._prompt_tokens = self._begins()
        drafts = any(prompt.policy.num_drafts for prompt in self.prompts)
        self._decoder = self._prefer(self.model.open_decoder(self._graphs, self._prompt_tokens, drafts=drafts))
        answers = [open_answer(prompt, self._limits.most_tokens, self._kind) for prompt in self.prompts]
        for answer in answers:
            answer.done = answer.question and self._answered
        self._answers = Answers(answers, self._limits, first=not self.segment)
        self._writer.begin(self.segment)

    def _begins(self) -> list[tuple[int, ...]]:
        """Return the tokens that the segment begins with for each prompt."""
        begins = zip(self._spoken.prompt_ids(), self._contexts, self.prompts, strict=True)
        return [self.model.join(ids, before) + self.model.condition(prompt.policy) for ids, before, prompt in begins]

    def _hear(self) -> None:
        """Hear the next chunk."""
        self._decoder.hear(self._listener.next_chunk())
        self._detect()

    def _detect(self) -> None:
        """Take the prompts of the language that the speech heard is in, until it is settled."""
        if self._spoken.detect(self._decoder):
            self._prompt_tokens = self._begins()
            self._decoder = self._prefer(self._decoder.branch(self._prompt_tokens))

    @contextmanager
    def _supposing_the_end(self) -> Iterator[None]:
        """Hear the rest of the audio for the time of a `with` block."""
        decoder, code, begins = self._decoder, self._spoken.code, self._prompt_tokens
        with decoder.supposing(self._listener.rest()):
            self._detect()
            try:
                yield
            finally:
                self._decoder, self._spoken.code, self._prompt_tokens = decoder, code, begins

    def _write(self) -> Iterator[Event]:
        """Write until the answers wait for more speech, or the segment ends."""
        available = self._decoder.heard
        while True:
            wanted = self._answers.wanted(available, ended=self._listener.ended)
            ready = [row for row, visible in enumerate(wanted) if visible is not None]
            if not ready:
                if available >= self._limits.most_steps and not self._listener.ended:
                    yield from self._cut(available)
                return
            self._draft_for_policies(wanted)
            doubted = {row for row in ready if self._doubts(row, wanted[row] or 0)}
            attempts = self._decoder.attempt([visible or 0 for visible in wanted])
            for row in ready:
                yield from self._decide(row, attempts[row], doubted=row in doubted)
            if self._answers.full():
                yield from self._settle(available)
                yield from self._next_segment(self._answers.full_end())
                return
            if self._answers.paused() and not self._listener.ended:
                yield from self._settle(available)
                quiet = self._answers.quiet_since() - REPLAY_STEPS
                yield from self._next_segment(max([quiet, *self._answers.word_ends()]))
                return

    def _settle(self, visible: int) -> Iterator[Event]:
        """Write the rest of the answers to questions at the end of a segment."""
        for row in self._answers.unanswered():
            with closing(self._answer(row, visible)) as attempts:
                for attempt in attempts:
                    yield from self._record(row, attempt)
                    if self._answers.all[row].done:
                        break

    def _decide(self, row: int, attempt: Attempt, *, doubted: bool) -> Iterator[Event]:
        last = self._listener.ended and attempt.visible_steps == self._decoder.heard
        end_ids = self.model.manifest.end_ids
        early, answer = self._spoken.waits(attempt), self._answers.all[row]
        attempt = chosen(attempt, answer.policy, end_ids, last=last)
        verdict = decide(answer, attempt, last=last, end_ids=end_ids, doubted=doubted, early=early)
        if verdict == "write":
            self._decoder.commit(row, attempt.token_id)
            yield from self._record(row, attempt)
        else:
            self._report(verdict, row, attempt)

    def _doubts(self, row: int, visible: int) -> bool:
        """Return whether an answer is one improbable word in a sound that had no words before."""
        if self._background is None or any(answer.words for answer in self._answers.all):
            return False
        with closing(self._rehearse(row, visible)) as attempts:
            span = only_word(attempts, self.model.tokenizer)
        if span is not None and not self._kind.aligned:
            span = 0, visible
        return span is not None and self._listener.level(*span) <= self._background + LOUDER

    def _record(self, row: int, attempt: Attempt) -> Iterator[Event]:
        """Append a token to its answer, and emit its text unless the segment before has emitted it."""
        self._spoken.settled = True
        self._report("write", row, attempt)
        answer = self._answers.all[row]
        word = answer.write(attempt)
        if answer.loops() and (self._listener.ended or not self._kind.continuous):
            answer.done = True
        for event in self._writer.add(row, word):
            answer.has_text = answer.has_text or bool(event.text)
            yield event

    def _report(self, verdict: Verdict, row: int, attempt: Attempt) -> None:
        if self.on_decision is not None:
            proposal = (attempt.visible_steps, attempt.token_id, attempt.log_prob)
            self.on_decision(Decision(self.heard_s, row, self.segment, *proposal, verdict))

    def _draft_for_policies(self, wanted: Sequence[int | None]) -> None:
        for row, (answer, visible) in enumerate(zip(self._answers.all, wanted, strict=True)):
            most = answer.policy.num_drafts
            if visible is None or not most or answer.drafted_at == visible:
                continue
            draft = answer.token_ids + tuple(item.token_id for item in self._rehearse(row, visible))
            answer.drafts = (*answer.drafts, draft)[-most:]
            answer.drafted_at = visible

    def _rehearse(self, row: int, visible: int) -> Generator[Attempt]:
        """Yield the next tokens of an answer if that is all the speech; the answer does not change."""
        rows = [visible] * self._decoder.rows
        answer, end_ids = self._answers.all[row], self.model.manifest.end_ids
        with self._decoder.rehearsal():
            for _ in range(answer.room(visible)):
                attempt = self._decoder.attempt(rows)[row]
                attempt = chosen(attempt, answer.policy, end_ids, last=visible == self._decoder.heard)
                if attempt.token_id in end_ids:
                    return
                self._decoder.commit(row, attempt.token_id)
                yield attempt

    def _search(self) -> Iterator[Event]:
        """Write the best hypothesis of a beam search over all the speech."""
        for attempt in self._best_answer(self._decoder.heard):
            yield from self._record(0, attempt)
        if self._answers.full():
            yield from self._next_segment(self._answers.full_end())

    def _answer(self, row: int, visible: int) -> Generator[Attempt]:
        """Yield the tokens of the rest of an answer if that is all the speech."""
        yield from self._best_answer(visible) if self.beam_size > 1 else self._rehearse(row, visible)

    def _best_answer(self, visible: int) -> Sequence[Attempt]:
        decoder = self._decoder.branch([self._prompt_tokens[0]] * self.beam_size)
        most_tokens = self._answers.all[0].most(visible)
        return beam_search(decoder, visible, self.model.manifest.end_ids, most_tokens, self._trie)

    def _cut(self, visible: int) -> Iterator[Event]:
        """End a segment in the middle of speech."""
        if self._kind.aligned:
            yield from self._cut_behind_word(visible)
        else:
            yield from self._cut_at_pause(visible)

    def _cut_at_pause(self, visible: int) -> Iterator[Event]:
        """End a segment at its quietest moment behind the speech of the words written, and write what stands before."""
        written = [
            answer.words[-1].visible_steps - answer.policy.read_steps for answer in self._answers.all if answer.words
        ]
        at = quietest(self._listener.level, max([visible // 2, *written]), visible)
        before = self._listener.shortened(at)
        for row, answer in enumerate(self._answers.all):
            with self._decoder.supposing(before):
                attempts = [] if answer.question or self._doubts(row, at) else list(self._answer(row, at))
            for attempt in attempts:  # outside: a decision names all that was heard
                yield from self._record(row, attempt)
        yield from self._settle(visible)
        yield from self._next_segment(at)

    def _cut_behind_word(self, visible: int) -> Iterator[Event]:
        """End a segment behind the last word that ends before the border."""
        resume = []
        for row, answer in enumerate(self._answers.all):
            if answer.question:
                continue
            attempts = [] if self._doubts(row, visible) else list(self._answer(row, visible))
            kept = whole_words(attempts, visible, self.model.tokenizer)
            for attempt in kept:
                yield from self._record(row, attempt)
            silent = len(kept) == len(attempts)  # no word at the border, but one may begin there
            end = answer.words[-1].end_step if answer.words else 0
            resume.append(max(visible - REPLAY_STEPS if silent else 0, end))
        yield from self._settle(visible)
        first = min(resume, default=visible - REPLAY_STEPS)
        yield from self._next_segment(max(first, visible // 4))  # so that a segment always moves on

    def _next_segment(self, first_step: int) -> Iterator[Event]:
        """Begin anew at an earlier step: prompt, memory and caches stay small in a stream of any length."""
        yield from self._writer.end()
        answers = self._answers.all
        spoken = any(answer.words for answer in answers)
        self._background = None if spoken else self._listener.level(0, self._decoder.heard)
        if (graphs := self.model.graphs) != self._graphs:  # `Model.take_graphs` replaced them
            self._graphs = graphs
            self._listener.use(self._open_encoder(graphs))
        self._clock.base_s += self._listener.restart(first_step) * self.model.config.features.frame_s
        self.segment += self._writer.started  # a segment without text was silence
        most, contexts = self.segments.context_tokens, []
        for answer, before in zip(answers, self._contexts, strict=True):
            contexts.append((answer.token_ids or before)[-most:] if most and not answer.question else ())
        self._begin_segment(contexts)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Refuse a session that has ended; a graph that fails ends it."""
        if self._ended:
            raise SessionError("the session was finished; open a new one with model.session(...)")
        try:
            yield
        except (GraphError, EngineError, DeviceError):
            self._ended = True
            raise
