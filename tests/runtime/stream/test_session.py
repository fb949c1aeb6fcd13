"""The live loop: equal to PyTorch token by token, to the policy's mask, and deaf to how audio arrives."""

import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scripted import RecordedDecoder, ScriptedModel, recorded
from simulated import simulate

from bestow_edge.core.config import SegmentConfig
from bestow_edge.core.errors import AudioError, ConfigError, PromptError, SessionError
from bestow_edge.core.policy import Offline, Policy, WaitK, visible_steps
from bestow_edge.core.specs.cross_adapter import cross_adapter
from bestow_edge.model.connectors.cross_adapter import cross_mask
from bestow_edge.runtime import stream
from bestow_edge.runtime.decoders.base import Decoder
from bestow_edge.runtime.decoders.cross_adapter import AdapterDecoder
from bestow_edge.runtime.decoders.speech_memory import SpeechMemory
from bestow_edge.runtime.devices.base import Graph
from bestow_edge.runtime.model import Model
from bestow_edge.runtime.stream.events import SegmentEvent

Floats = npt.NDArray[np.float32]


def listen(model: Model, samples: Floats, block: int | None = None, **options: Any) -> RecordedDecoder:
    """Run one session over samples and return what its first segment asked of its decoder."""
    model = recorded(model)
    session = model.session(**({"source": "de", "segments": SegmentConfig(pause_s=0)} | options))
    size = block or max(1, samples.size)
    for start in range(0, samples.size, size):
        session.feed(samples[start : start + size])
    session.finish()
    return first_segment(model)


def first_segment(model: ScriptedModel) -> RecordedDecoder:
    """Return the record of the first segment of a model's sessions."""
    decoder = model.opened[0]
    assert isinstance(decoder, RecordedDecoder)
    return decoder


@pytest.mark.parametrize("lookahead", [13, 6, 1, 0])
def test_offline_is_greedy_decoding_of_the_whole(
    torch_model: Any, model: Model, speech: Floats, lookahead: int
) -> None:
    samples = speech[: 3 * 16000]
    tokens, _ = simulate(torch_model, model, samples, Offline(), lookahead)
    got = listen(model, samples, 1000, policy=Offline(), lookahead=lookahead)
    assert got.tokens == tokens
    assert len(set(tokens)) > 3


@pytest.mark.parametrize(("k", "l", "lookahead"), [(1, 1, 0), (1, 2, 1), (3, 2, 1), (3, 4, 13), (6, 4, 6), (2, 3, 13)])
def test_wait_k_is_greedy_decoding_under_the_mask(
    torch_model: Any,
    pausing_model: Model,
    speech: Floats,
    k: int,
    l: int,  # noqa: E741 - the paper's letter
    lookahead: int,
) -> None:
    samples = speech[: 4 * 16000]
    tokens, attempts = simulate(torch_model, pausing_model, samples, WaitK(k, l), lookahead)
    got = listen(pausing_model, samples, 700, k=k, l=l, lookahead=lookahead)
    assert got.attempts == attempts
    assert got.tokens == tokens
    assert got.pauses > 1  # the last one is the end


def test_wait_k_writes_and_pauses(pausing_model: Model, speech: Floats) -> None:
    """The tests above would prove little if the random model did only one of the two."""
    got = listen(pausing_model, speech[: 4 * 16000], k=3, l=2, lookahead=1)
    assert len(got.tokens) > 5
    assert got.pauses > 5
    kinds = [token in pausing_model.manifest.end_ids for _, token in got.attempts]
    assert any(one and not other for one, other in pairwise(kinds))  # it writes after a pause


def test_mask_is_policy_is_live_loop(pausing_model: Model, tiny_vocabulary: int, speech: Floats) -> None:
    @given(
        k=st.integers(1, 8),
        l=st.integers(1, 6),
        prompt=st.lists(st.integers(5, tiny_vocabulary - 1), min_size=1, max_size=7),
        num_samples=st.integers(1280, 48000),
        lookahead=st.sampled_from([13, 6, 1, 0]),
        ends=st.sampled_from([(2,), tuple(range(0, 300, 3)), tuple(range(1, 300, 2))]),
    )
    @example(k=1, l=1, prompt=[178, 81, 235, 81], num_samples=1280, lookahead=13, ends=tuple(range(0, 300, 3)))
    def check(
        k: int,
        l: int,  # noqa: E741 - the paper's letter
        prompt: list[int],
        num_samples: int,
        lookahead: int,
        ends: tuple[int, ...],
    ) -> None:
        prompts = dict.fromkeys(pausing_model.manifest.prompts, tuple(prompt))
        model = copy(pausing_model)  # with the same graphs: loading them takes longer than the session
        model.manifest = replace(model.manifest, prompts=prompts, end_ids=ends)
        got = listen(model, speech[:num_samples], 4000, k=k, l=l, lookahead=lookahead)
        source_steps = -(-(num_samples // 160 - 1) // 8) + 1
        policy = WaitK(k, l)
        mask = visible_steps(
            policy,
            prompt_tokens=len(prompt),
            text_tokens=len(prompt) + len(got.visible) - 1,
            source_steps=source_steps,
            at_least=np.array(got.visible, dtype=np.int64),
        ) if got.visible else np.zeros(0, dtype=np.int64)  # fmt: skip
        assert mask.tolist() == ([0] * (len(prompt) - 1) + got.visible if got.visible else [])
        if not any(token in ends for _, token in got.attempts[:-1]):  # no pause: nothing but the policy decided
            free = [min(policy.steps_needed(index), source_steps) for index in range(len(got.visible))]
            assert got.visible == free
        rows = cross_mask(torch.tensor([[steps for steps, _ in got.attempts]]), source_steps + 1)
        assert rows[0, 0, :, :-1].sum(-1).tolist() == got.heard_slots == [steps for steps, _ in got.attempts]

    check()


@pytest.mark.parametrize("block", [1, 37, 160, 1600, 9999, None])
def test_text_does_not_depend_on_blocks(pausing_model: Model, speech: Floats, block: int | None) -> None:
    samples = speech[: 16000 if block == 1 else 48000]
    options: dict[str, Any] = {"k": 1, "l": 2, "lookahead": 1}
    want = listen(pausing_model, samples, 480, **options)
    got = listen(pausing_model, samples, block, **options)
    assert (got.tokens, got.attempts) == (want.tokens, want.attempts)
    assert got.tokens


def test_empty_blocks_are_harmless(pausing_model: Model, speech: Floats) -> None:
    with pausing_model.session(source="de", k=1) as session:
        assert session.feed(np.zeros(0, dtype=np.float32)) == []
        assert session.finish() == []
    assert session.num_tokens == len(pausing_model.manifest.prompts["de-de"]) - 1
    assert listen(pausing_model, speech[:0], k=1).attempts == []


@pytest.mark.parametrize("lookahead", [13, 1])
def test_later_audio_never_changes_earlier_tokens(pausing_model: Model, speech: Floats, lookahead: int) -> None:
    rng = np.random.default_rng(1)
    other = np.concatenate([speech[:40000], 0.3 * rng.standard_normal(40000).astype(np.float32)])
    models = [recorded(pausing_model) for _ in range(3)]
    for model, samples in zip(models, (speech[:40000], speech[:80000], other), strict=True):
        model.session(source="de", k=1, l=2, lookahead=lookahead).feed(samples)
    notes = [first_segment(model) for model in models]
    prefix = notes[0].attempts
    assert len(prefix) > 10
    assert notes[1].attempts[: len(prefix)] == notes[2].attempts[: len(prefix)] == prefix
    assert notes[1].log_probs[: len(prefix)] == notes[2].log_probs[: len(prefix)] == notes[0].log_probs
    assert notes[1].log_probs != notes[2].log_probs  # so what comes later does differ


def test_a_token_waits_for_its_speech(model: Model, speech: Floats) -> None:
    """K = 3, L = 4 and a look-ahead of 1: the first token comes with the chunk that holds step 12, no sooner."""
    watched = recorded(model)
    session = watched.session(source="de", k=3, l=4, lookahead=1)
    notes = first_segment(watched)
    samples = (8 * 12 - 7 - 1) * 160 + 200  # up to the end of the last window of twelve steps
    session.feed(speech[: samples - 1])
    assert notes.attempts == []
    session.feed(speech[samples - 1 : samples])
    assert [visible for visible, _ in notes.attempts] == [12]


def interleaved(model: Model, options: list[dict[str, Any]], audios: list[Floats]) -> list[RecordedDecoder]:
    models = [recorded(model) for _ in options]
    pairs = zip(models, options, strict=True)
    sessions = [one.session(segments=SegmentConfig(pause_s=0), **option) for one, option in pairs]
    for start in range(0, max(audio.size for audio in audios), 1000):
        for session, audio in zip(sessions, audios, strict=True):
            session.feed(audio[start : start + 1000])
    for session in sessions:
        session.finish()
    return [first_segment(one) for one in models]


def test_two_sessions_do_not_touch_each_other(pausing_model: Model, speech: Floats) -> None:
    audios = [speech[:48000], speech[20000:60000]]
    options: list[dict[str, Any]] = [
        {"source": "de", "k": 1, "l": 2, "lookahead": 1},
        {"source": "en", "target": "de", "k": 2, "l": 1, "lookahead": 6},
    ]
    separate = [listen(pausing_model, audio, **option) for audio, option in zip(audios, options, strict=True)]
    together = interleaved(pausing_model, options, audios)
    assert [notes.attempts for notes in together] == [notes.attempts for notes in separate]
    assert separate[0].tokens
    assert separate[0].attempts != separate[1].attempts


def test_threads_share_a_model(pausing_model: Model, speech: Floats) -> None:
    audios = [speech[start : start + 32000] for start in range(0, 48000, 8000)]
    one = partial(listen, pausing_model, block=800, k=1, l=2, lookahead=1)
    want = [one(audio).attempts for audio in audios]
    with ThreadPoolExecutor(4) as pool:
        got = [notes.attempts for notes in pool.map(one, audios)]
    assert got == want
    assert len({tuple(attempts) for attempts in want}) == len(audios)


def test_a_full_memory_wraps(model: Model, speech: Floats) -> None:
    def open_small(graphs: Mapping[str, Graph], prompts: Sequence[Sequence[int]]) -> Decoder:
        memory = SpeechMemory(cross_adapter(model.config), first_slots=16, max_slots=32)
        return RecordedDecoder(AdapterDecoder(graphs, model.config, prompts, memory))

    small = ScriptedModel(model, open_small)
    session = small.session(source="de", k=2, l=1, lookahead=1, segments=SegmentConfig(pause_s=0))
    session.feed(speech)
    session.finish()
    notes = first_segment(small)
    assert session.heard_s == pytest.approx(6.08)
    assert len(notes.tokens) > 60
    assert max(notes.heard_slots) == 32
    assert all(slots <= 32 for slots in notes.heard_slots)


def test_a_full_context_begins_a_segment(remake_model: Callable[..., Model], speech: Floats) -> None:
    model = remake_model(max_text_tokens=30)
    session = model.session(source="de", k=1, l=1, lookahead=0)
    events = [*session.feed(speech), *session.finish()]
    assert session.segment > 0
    assert session.num_tokens <= 29
    assert [event.segment for event in events] == sorted(event.segment for event in events)


def test_events_say_what_was_added(pausing_model: Model, speech: Floats) -> None:
    model = recorded(pausing_model)
    session = model.session(source="de", k=1, l=2, lookahead=1, segments=SegmentConfig(pause_s=0))
    notes = first_segment(model)
    first, *events, last = list(stream(session, iter(np.split(speech[:48000], 10))))
    assert (first, last) == (
        SegmentEvent("start", 0, events[0].start_s),
        SegmentEvent("end", 0, max(event.end_s for event in events)),
    )
    assert [token for event in events for token in event.token_ids] == notes.tokens
    assert all(event.text and event.segment == 0 and event.log_prob < 0 for event in events)
    heard = [event.heard_s for event in events]
    assert heard == sorted(heard)
    assert heard[-1] <= session.heard_s


def test_a_finished_session_refuses(model: Model, speech: Floats) -> None:
    session = model.session(source="de")
    session.finish()
    with pytest.raises(SessionError, match=r"the session was finished; open a new one with model\.session"):
        session.feed(speech[:10])
    with pytest.raises(SessionError, match="the session was finished"):
        session.finish()
    with model.session(source="de") as other:
        pass
    with pytest.raises(SessionError):
        other.feed(speech[:10])


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (np.zeros(10), r"audio block is float64 \(10,\); expected a numpy array, float32"),
        (np.zeros(10, dtype=np.int16), r"int16 \(10,\)"),
        (np.zeros((10, 2), dtype=np.float32), r"float32 \(10, 2\)"),
        (np.array([0, np.nan], dtype=np.float32), "holds NaN or Inf"),
        (np.array([0, np.inf], dtype=np.float32), "holds NaN or Inf"),
    ],
)
def test_blocks_that_are_no_audio(model: Model, block: Any, message: str) -> None:
    session = model.session(source="de")
    with pytest.raises(AudioError, match=message):
        session.feed(block)
    assert session.feed(np.zeros(10, dtype=np.float32)) == []  # it goes on


def test_an_untrained_k_or_l_is_warned_of_once(
    remake_model: Callable[..., Model], caplog: pytest.LogCaptureFixture
) -> None:
    model = remake_model()
    for k, l in ((3, 4), (20, 4), (20, 4), (3, 5), (20, 4), (12, 4)):  # noqa: E741 - the paper's letter
        model.session(source="de", k=k, l=l).__exit__(None, None, None)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["K=20, L=4", "K=3, L=5"]
    assert caplog.records[0].getMessage().endswith("L=4 and K from 3 to 12; expect more mistakes")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"source": "xx"}, PromptError, "language pair 'xx': expected SOURCE-TARGET"),
        ({"source": "en", "target": "fr"}, PromptError, "en-fr: this model was trained for en-en, en-de, de-de, de-en"),
        ({"source": "en", "task": "translate"}, PromptError, "that pair means 'transcribe'"),
        ({"source": "en", "lookahead": 5}, ConfigError, "lookahead 5: this model has 13, 6, 1, 0"),
        ({"source": "en", "k": 0}, ConfigError, "k >= 1 and l >= 1, got k=0, l=4"),
        ({"source": "en", "l": -1}, ConfigError, "got k=3, l=-1"),
        (
            {"source": "en", "segments": SegmentConfig(pause_s=0.5)},
            ConfigError,
            "pause_s 0.5, expected 0 or at least 1.2 s",
        ),
        (
            {"source": "en", "segments": SegmentConfig(max_s=1.0)},
            ConfigError,
            "max_s 1.0, expected 0 or at least 3.0 s",
        ),
        (
            {"source": "en", "segments": SegmentConfig(context_tokens=10**6)},
            ConfigError,
            "1000000 and the prompt of [0-9]+ leave no room",
        ),
        ({"source": "en", "k": 2, "policy": Offline()}, ConfigError, "give either policy or k and l, not both"),
    ],
)
def test_wrong_options(model: Model, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model.session(**options)


def test_a_policy_that_reads_nothing_ends_all_the_same(pausing_model: Model, speech: Floats) -> None:
    class Greedy(Policy):
        @property
        def read_steps(self) -> int:
            return 0

        def steps_needed(self, index: int) -> int:
            return index + 1

    session = pausing_model.session(source="en", policy=Greedy())
    assert [*session.feed(speech), *session.finish()]


def test_a_session_frees_its_memory_without_the_garbage_collector(model: Model) -> None:
    """A server opens thousands, whose arrays would wait for a collection that is rare."""
    session = model.session(source="en")
    session.feed(np.zeros(16_000, np.float32))
    session.draft()
    parts = [weakref.ref(part) for part in (session, session._decoder, session._listener)]
    gc.disable()
    try:
        del session
        assert [part() for part in parts] == [None] * 3
    finally:
        gc.enable()
