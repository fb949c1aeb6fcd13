"""The live loop: audio in, events out, for one stream and one or several prompts about it.

What is written depends on the audio, the policies and the look-ahead alone, never on how the audio was cut into blocks
or how fast it came: the policies ask for encoder steps, and the loop waits for them. It knows no devices, files or
clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bestow_edge.core.config import SUBSAMPLING, SegmentConfig
from bestow_edge.core.errors import SessionError
from bestow_edge.core.prompts import Question
from bestow_edge.runtime.audio.files import check_block
from bestow_edge.runtime.decoders.cross_adapter import Attempt, TextDecoder
from bestow_edge.runtime.devices.base import Graphs, parts
from bestow_edge.runtime.encoders.base import encoder_for
from bestow_edge.runtime.stream.answer import Prompt, Track, Word
from bestow_edge.runtime.stream.answers import Rows
from bestow_edge.runtime.stream.beam import beam_search
from bestow_edge.runtime.stream.events import Decision, Event, SegmentEvent, TextEvent, Verdict
from bestow_edge.runtime.stream.prefetch import Ahead
from bestow_edge.runtime.stream.segments import LOUDER, limits, lone_word, whole_words
from bestow_edge.runtime.stream.text import Detokenizer

if TYPE_CHECKING:
    from bestow_edge.runtime.model import Model

FRAMES_PER_S = 100  # mel frames
REPLAY_STEPS = 12  # 0.96 s: a word that is being spoken when a segment ends begins within it


class Session:
    """One stream of audio and its texts. Make it with `Model.session` or `Model.multi_session`."""

    def __init__(
        self,
        model: Model,
        *,
        prompts: Sequence[Prompt],
        lookahead: int,
        segments: SegmentConfig,
        beam_size: int = 1,
    ) -> None:
        """Prefill the prompts, so that the first token costs no more than any other.

        Args:
            model: the loaded bundle; many sessions may share it.
            prompts: what is asked; all are decoded as one batch.
            lookahead: right context of the encoder, steps.
            segments: when a new segment begins.
            beam_size: hypotheses of the search at the end of the audio; 1 = greedy.

        Raises:
            ConfigError: a limit of `segments` is too small, or more than the LLM's context holds.
            PromptError: a question cannot be asked, see `question_ids`.
        """
        self.prompts = tuple(prompts)
        self.lookahead, self.beam_size = lookahead, beam_size
        self.segments = segments
        self.segment = 0
        self.on_decision: Callable[[Decision], None] | None = None
        """Called with every decision, those of drafts apart."""
        self._model = model
        self._step_s = model.config.features.step_s
        self._ids = [model.prompt_ids(prompt.asked) for prompt in prompts]
        self._limits = limits(
            segments,
            step_s=self._step_s,
            prompt_tokens=max(map(len, self._ids)),
            max_text_tokens=model.manifest.max_text_tokens,
        )
        self._take_graphs(model.graphs)
        self._encoder_state: Any = self._encoder.initial_state()  # Any: each kind of encoder has a state of its own
        self._ended = False
        self._answered = False  # whether questions have been, with all of the speech
        self._background: float | None = None  # level of the segment before, if it had no words
        self._base_s = 0.0
        self._said_s = [0.0] * len(prompts)  # end of the last word of each text
        self._begin_segment([()] * len(prompts))

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True

    def feed(self, samples: npt.NDArray[np.float32]) -> list[Event]:
        """Hear a block of audio and return what it brings.

        Args:
            samples: (samples,) float32 mono at the model's rate, any number of them, full scale 1.

        Raises:
            SessionError: the session was finished.
            AudioError: the block is not one-dimensional float32 or holds NaN.
        """
        self._check_open()
        check_block(samples)
        self._encoder_state = self._encoder.add(samples, self._encoder_state)
        events: list[Event] = []
        while self._encoder.has_chunk(self._encoder_state):  # one by one: a new segment restarts the encoder
            self._hear_chunk()
            events += list(self._write())
        return events

    def finish(self) -> list[Event]:
        """End the audio and return the rest of the text; nothing said is lost.

        Raises:
            SessionError: the session was finished before.
        """
        self._check_open()
        self._encoder_state = self._encoder.end(self._encoder_state)
        events: list[Event] = []
        decoder = None
        while decoder is not self._decoder:  # a segment may fill up or end early: what follows it is heard anew
            decoder = self._decoder
            while self._encoder.has_chunk(self._encoder_state):
                self._hear_chunk()
            events += list(self._search() if self.beam_size > 1 else self._write())
            if decoder is self._decoder and self._rows.ended_early(self._decoder.memory.written):
                self._answered = True
                events += list(self._next_segment(min(self._rows.heard_ends())))
        self._ended = True
        return events + list(self._end_segment())

    def draft(self, prompt: int = 0) -> str:
        """Return what would be appended to a prompt's text if the audio ended now; changes nothing.

        Raises:
            SessionError: the session was finished.
        """
        self._check_open()
        memory = self._decoder.memory
        chunks = list(self._encoder.finish(self._encoder_state))
        first = min((speech.start for speech in chunks), default=memory.written)
        snapshot = memory.snapshot(first, max((speech.end for speech in chunks), default=memory.written))
        for speech in chunks:
            memory.write(speech)
        try:
            return self._text_after(prompt, (item.token_id for item in self._rehearse(prompt, memory.written)))
        finally:
            memory.restore(snapshot)

    @property
    def model(self) -> Model:
        """The bundle it runs."""
        return self._model

    @property
    def sample_rate_hz(self) -> int:
        """Rate that `feed` expects."""
        return self._model.sample_rate_hz

    @property
    def heard_s(self) -> float:
        """Seconds of audio that reached the text side."""
        return self._time_s(self._decoder.memory.written)

    @property
    def segment_start_s(self) -> float:
        """Where in the stream the audio of the current segment begins, seconds."""
        return self._base_s

    @property
    def num_tokens(self) -> int:
        """Tokens of the current segment, prompt included, of the longest text."""
        return int(self._decoder.num_tokens.max())

    def _take_graphs(self, graphs: Graphs) -> None:
        """Use these graphs from the next segment on; TensorRT engines may have taken the place of others meanwhile."""
        self._graphs = graphs
        encoder, self._adapter, self._llm = parts(graphs)
        policies = [prompt.policy for prompt in self.prompts]
        self._encoder = encoder_for(self._model, policies, self.lookahead, encoder)
        self._ahead = Ahead(self._encoder.next_chunk, self._model.executor)

    def _begin_segment(self, contexts: Sequence[tuple[int, ...]]) -> None:
        """Begin with fresh prompts, caches and speech memory; `contexts` are the tokens repeated behind each prompt."""
        model, self._contexts = self._model, contexts
        self._prompt_tokens = [(*ids, *context) for ids, context in zip(self._ids, contexts, strict=True)]
        self._decoder = TextDecoder(self._adapter, self._llm, model.manifest, self._prompt_tokens)
        self._tracks = [
            Track(prompt.policy, self._detokenizer(), self._limits.most_tokens, isinstance(prompt.asked, Question))
            for prompt in self.prompts
        ]
        for track in self._tracks:
            track.done = track.question and self._answered
        self._rows = Rows(self._tracks, self._limits, first=not self.segment)
        self._started = False
        self._skip_s = [
            0.0 if track.question else said_s for track, said_s in zip(self._tracks, self._said_s, strict=True)
        ]

    def _hear_chunk(self) -> None:
        speech, self._encoder_state = self._ahead.next_chunk(self._encoder_state)
        self._decoder.memory.write(speech)
        if self._encoder.has_chunk(self._encoder_state):
            self._ahead.begin(self._encoder_state)

    @property
    def _heard_all(self) -> bool:
        return self._encoder_state.ended and not self._encoder.has_chunk(self._encoder_state)

    def _write(self) -> Iterator[Event]:
        """Write until policies and model ask for more speech, or a segment ends."""
        available = self._decoder.memory.written
        while True:
            wanted = self._rows.wanted(available, ended=self._heard_all)
            ready = [row for row, visible in enumerate(wanted) if visible is not None]
            if not ready:
                if available >= self._limits.most_steps and not self._heard_all:
                    yield from self._cut(available)
                return
            self._draft_for_policies(wanted)
            doubted = {row for row in ready if self._doubts(row, wanted[row] or 0)}
            attempts = self._decoder.attempt([visible or 0 for visible in wanted])
            for row in ready:
                yield from self._decide(row, attempts[row], wanted[row] or 0, available, doubted=row in doubted)
            if self._rows.full():
                yield from self._settle(available)
                yield from self._next_segment(self._rows.full_end())
                return
            if self._rows.paused() and not self._heard_all:
                yield from self._settle(available)
                yield from self._next_segment(max([self._rows.quiet_since() - REPLAY_STEPS, *self._rows.word_ends()]))
                return

    def _settle(self, visible: int) -> Iterator[Event]:
        """Write what is left of the answers to questions about a segment that ends."""
        for row in self._rows.unanswered():
            with closing(self._answer(row, visible)) as answer:
                for attempt in answer:
                    yield from self._note(row, attempt, visible)
                    if self._tracks[row].done:
                        break

    def _decide(self, row: int, attempt: Attempt, visible: int, available: int, *, doubted: bool) -> Iterator[Event]:
        track = self._tracks[row]
        last = self._heard_all and visible == available
        if doubted or attempt.token_id in self._model.manifest.end_ids:
            self._tell("doubt" if doubted else "pause", row, attempt, visible)
            track.pause(visible)
            track.done = last
        elif not last and not track.accepts(attempt, visible):
            self._tell("refuse", row, attempt, visible)
            track.refuse(visible)
        else:
            self._decoder.commit(row, attempt.token_id)
            yield from self._note(row, attempt, visible)

    def _doubts(self, row: int, visible: int) -> bool:
        """Say whether what would be written is a lone, improbable word in a sound that went on without words before."""
        if self._background is None or any(track.words for track in self._tracks):
            return False
        with closing(self._rehearse(row, visible)) as answer:
            span = lone_word(answer, visible, self._model.tokenizer)
        return span is not None and self._encoder.level(self._encoder_state, *span) <= self._background + LOUDER

    def _note(self, row: int, attempt: Attempt, visible: int) -> Iterator[Event]:
        self._tell("write", row, attempt, visible)
        track = self._tracks[row]
        word = track.write(attempt, visible)
        if track.loops():
            track.done = True
        if (self._time_s(word.first_step) + self._time_s(word.end_step)) / 2 >= self._skip_s[row]:
            yield from self._say(row, word)  # otherwise the segment before has said it

    def _tell(self, verdict: Verdict, row: int, attempt: Attempt, visible: int) -> None:
        if self.on_decision is not None:
            known = (self.heard_s, row, self.segment, visible, attempt.token_id, attempt.log_prob)
            self.on_decision(Decision(*known, verdict))

    def _say(self, row: int, word: Word) -> Iterator[Event]:
        track = self._tracks[row]
        self._said_s[row] = max(self._said_s[row], self._time_s(word.end_step))
        track.unsaid.append(word)
        text = track.detokenizer.push(word.token_id)
        if not text:
            return
        track.said = True
        words, track.unsaid = track.unsaid, []
        start_s = self._time_s(words[0].first_step)
        if not self._started:
            self._started = True
            yield SegmentEvent("start", self.segment, start_s)
        yield TextEvent(
            text=text,
            token_ids=tuple(item.token_id for item in words),
            log_probs=tuple(item.log_prob for item in words),
            start_s=start_s,
            end_s=self._time_s(word.end_step),
            heard_s=self._time_s(word.visible_steps),
            segment=self.segment,
            prompt=row,
        )

    def _draft_for_policies(self, wanted: Sequence[int | None]) -> None:
        for row, (track, visible) in enumerate(zip(self._tracks, wanted, strict=True)):
            most = track.policy.num_drafts
            if visible is None or not most or track.drafted_at == visible:
                continue
            track.drafts.append(track.token_ids + tuple(item.token_id for item in self._rehearse(row, visible)))
            track.drafted_at = visible
            while len(track.drafts) > most:
                track.drafts.popleft()

    def _text_after(self, prompt: int, token_ids: Iterable[int]) -> str:
        """Return the text that more tokens would add to a segment's."""
        detokenizer = self._detokenizer()
        for word in self._tracks[prompt].words:
            detokenizer.push(word.token_id)
        return "".join(map(detokenizer.push, token_ids))

    def _detokenizer(self) -> Detokenizer:
        return Detokenizer(self._model.tokenizer, prefix=" " if self.segment else "")

    def _rehearse(self, row: int, visible: int) -> Generator[Attempt]:
        """Yield what would be written next with that much speech and no more."""
        rows = [visible] * self._decoder.rows
        most = self._tracks[row].most(visible) - len(self._tracks[row].words)
        with self._decoder.rehearsal():
            for _ in range(most):
                attempt = self._decoder.attempt(rows)[row]
                if attempt.token_id in self._model.manifest.end_ids:
                    return
                self._decoder.commit(row, attempt.token_id)
                yield attempt

    def _search(self) -> Iterator[Event]:
        """Write the best hypothesis of a beam search over all the speech."""
        visible = self._decoder.memory.written
        for attempt in self._best_answer(visible):
            yield from self._note(0, attempt, visible)
        if self._rows.full():
            yield from self._next_segment(self._rows.full_end())

    def _answer(self, row: int, visible: int) -> Generator[Attempt]:
        """Yield what would be written with that much speech and no more."""
        yield from self._best_answer(visible) if self.beam_size > 1 else self._rehearse(row, visible)

    def _best_answer(self, visible: int) -> Sequence[Attempt]:
        model, memory = self._model, self._decoder.memory
        rows = [self._prompt_tokens[0]] * self.beam_size
        decoder = TextDecoder(self._adapter, self._llm, model.manifest, rows, memory)
        return beam_search(decoder, visible, model.manifest.end_ids, self._tracks[0].most(visible))

    def _cut(self, visible: int) -> Iterator[Event]:
        """End a segment in the middle of speech, behind the last word that lies well before its end."""
        resume = []
        for row, track in enumerate(self._tracks):
            if track.question:
                continue
            answer = [] if self._doubts(row, visible) else list(self._answer(row, visible))
            kept = whole_words(answer, visible, self._model.tokenizer)
            for attempt in kept:
                yield from self._note(row, attempt, visible)
            silent = len(kept) == len(answer)  # up to the border: a word that begins there may not be known yet
            resume.append(max([visible - REPLAY_STEPS if silent else 0, *(word.end_step for word in track.words[-1:])]))
        yield from self._settle(visible)
        first = min(resume, default=visible - REPLAY_STEPS)
        yield from self._next_segment(max(first, visible // 4))  # so that it goes on whatever the model says

    def _next_segment(self, first_step: int) -> Iterator[Event]:
        """Begin anew at an earlier step: prompt, memory and caches stay small however long the stream is."""
        yield from self._end_segment()
        spoken = any(track.words for track in self._tracks)
        heard = self._decoder.memory.written
        self._background = None if spoken else self._encoder.level(self._encoder_state, 0, heard)
        if (graphs := self._model.graphs) is not self._graphs:
            self._take_graphs(graphs)
        self._encoder_state, first_frame = self._encoder.restart(self._encoder_state, first_step * SUBSAMPLING)
        self._base_s += first_frame / FRAMES_PER_S
        self.segment += self._started  # a segment without text was silence
        most = self.segments.context_tokens
        known = zip(self._tracks, self._contexts, strict=True)
        self._begin_segment(
            [(track.token_ids or before)[-most:] if most and not track.question else () for track, before in known]
        )

    def _end_segment(self) -> Iterator[Event]:
        if self._started:
            yield SegmentEvent("end", self.segment, max(self._said_s))

    def _time_s(self, step: int) -> float:
        return self._base_s + step * self._step_s

    def _check_open(self) -> None:
        if self._ended:
            raise SessionError("the session was finished; open a new one with model.session(...)")
