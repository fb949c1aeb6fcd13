"""Traces: what they hold, that a replay gives the same events, interruptions, damaged and foreign files."""

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import bestow_edge as be
from bestow_edge.core.config import SegmentConfig
from bestow_edge.core.errors import AudioError, TraceError
from bestow_edge.runtime import embedded_bundle
from bestow_edge.runtime.records.replay import first_difference, replay
from bestow_edge.runtime.records.trace import DECISIONS, FEEDS, HEADER, Trace, Tracer, read_trace
from bestow_edge.runtime.stream.events import Decision

Floats = npt.NDArray[np.float32]
EXAMPLE = Path(__file__).parents[3] / "examples" / "audio" / "digits_en.wav"


@pytest.fixture(scope="module")
def digits() -> be.Model:
    return be.load("demo", threads=1)


@pytest.fixture(scope="module")
def waveform(digits: be.Model) -> Floats:
    return be.read_audio(EXAMPLE, digits.sample_rate_hz)


def record(session: be.Session, blocks: list[Floats], path: Path) -> tuple[Trace, list[be.Event]]:
    with Tracer(session, path) as tracer:
        events = [event for block in blocks for event in tracer.feed(block)] + tracer.finish()
    return read_trace(path), events


@pytest.fixture(scope="module")
def recorded(digits: be.Model, waveform: Floats, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Blocks of several sizes, an empty one among them; a policy that refuses and two prompts."""
    prompts: list[tuple[str, be.Policy]] = [("en-de", be.WaitK(2, 3)), ("en-en", be.AlignAtt(6, l=2))]
    session = digits.multi_session(prompts, lookahead=1, segments=SegmentConfig(pause_s=0, max_tokens=10))
    blocks = np.split(waveform, [1, 1, 1500, 20000])
    return record(session, blocks, tmp_path_factory.mktemp("traces") / "digits.trace")[0]


def test_a_trace_holds_audio_decisions_events_and_times(recorded: Trace, waveform: Floats) -> None:
    blocks = list(recorded.blocks())
    assert [block.size for block in blocks] == [1, 0, 1499, 18500, waveform.size - 20000]
    assert np.array_equal(np.concatenate(blocks), waveform)
    assert recorded.duration_s == waveform.size / 16000
    assert recorded.header.finished
    assert (recorded.header.version, recorded.header.lookahead, recorded.header.segments.pause_s) == (
        be.__version__,
        1,
        0,
    )
    assert recorded.policies == [be.WaitK(2, 3), be.AlignAtt(6, l=2)]
    assert (np.diff(recorded.feeds["start_s"]) >= recorded.feeds["wall_s"][:-1]).all()
    decisions = recorded.decisions
    assert set(decisions["verdict"]) == {"write", "pause", "refuse"}
    assert set(decisions["verdict"][decisions["prompt"] == 0]) == {"write", "pause"}
    assert (np.diff(decisions["time_s"]) >= 0).all()
    for prompt in (0, 1):
        texts = [event for event in recorded.events if isinstance(event, be.TextEvent) and event.prompt == prompt]
        written = decisions[(decisions["prompt"] == prompt) & (decisions["verdict"] == "write")]
        assert [token for event in texts for token in event.token_ids] == written["token_id"].tolist() != []
        assert [score for event in texts for score in event.log_probs] == written["log_prob"].tolist()


def test_a_replay_gives_the_same_events(recorded: Trace, digits: be.Model) -> None:
    events = replay(recorded, digits)
    assert tuple(events) == recorded.events
    assert first_difference(recorded.events, events) is None


def test_a_replay_with_other_settings_is_another_session(recorded: Trace, digits: be.Model, waveform: Floats) -> None:
    policies = [be.WaitK(6, 4), be.Offline()]
    events = replay(recorded, digits, policies=policies, lookahead=6)
    prompts = list(zip(("en-de", "en-en"), policies, strict=True))
    with digits.multi_session(prompts, lookahead=6, segments=SegmentConfig(pause_s=0, max_tokens=10)) as session:
        assert events == session.feed(waveform) + session.finish()
    assert first_difference(recorded.events, events)


def test_hotwords_are_recorded_and_replayed(digits: be.Model, waveform: Floats, tmp_path: Path) -> None:
    words = (be.Hotword("Heidelberg", 20.0), be.Hotword("Rom", 20.0))
    prompts: list[tuple[str, be.Policy]] = [("en-de", be.WaitK(2, 3)), ("en-en", be.AlignAtt(6, l=2))]
    trace, events = record(digits.multi_session(prompts, hotwords=words), [waveform], tmp_path / "names.trace")
    assert trace.header.hotwords == words
    assert replay(trace, digits) == events
    text = "".join(event.text for event in events if isinstance(event, be.TextEvent))
    assert "Rom" in text or "Heidelberg" in text
    assert record(digits.multi_session(prompts), [waveform], tmp_path / "plain.trace")[0].header.hotwords == ()


def test_first_difference() -> None:
    text = be.TextEvent("one", (7,), (-0.5,), 0.1, 0.4, 1.0, 0)
    start = be.SegmentEvent("start", 0, 0.1)
    assert first_difference([start, text], [start, replace(text, log_probs=(-0.6,), end_s=0.5)]) is None
    later = replace(text, text="two", heard_s=1.24)
    message = "event 1: recorded 'one' (heard 1.00 s), replayed 'two' (heard 1.24 s)"
    assert first_difference([start, text], [start, later]) == message
    assert first_difference([text], [text, start]) == "event 1: recorded nothing, replayed start of segment 0"


def test_tracing_changes_nothing(digits: be.Model, waveform: Floats, tmp_path: Path) -> None:
    def session() -> be.Session:
        return digits.session(
            source="en", target="de", policy=be.LocalAgreement(2, 6), segments=SegmentConfig(pause_s=1.2, max_tokens=10)
        )

    trace, events = record(session(), [waveform], tmp_path / "a.trace")
    plain = session()
    assert plain.on_decision is None
    assert plain.feed(waveform) + plain.finish() == events == list(trace.events)
    assert replay(trace, digits) == events


@pytest.mark.parametrize("blocks_fed", [0, 12])
def test_an_interrupted_stream_leaves_a_complete_trace(
    digits: be.Model, waveform: Floats, tmp_path: Path, blocks_fed: int
) -> None:
    """The block in which it was interrupted is left out, its decisions too; nothing is left beside the file."""
    session = digits.session(source="en", target="de", k=1, lookahead=0)
    events: list[be.Event] = []
    blocks = np.split(waveform, range(1280, waveform.size, 1280))
    path = tmp_path / "cut.trace"

    with pytest.raises(KeyboardInterrupt), Tracer(session, path) as tracer:  # noqa: PT012 - until the interruption
        for block in blocks[:blocks_fed]:
            events += tracer.feed(block)
        note = session.on_decision

        def interrupt(decision: Decision) -> None:
            assert note is not None
            note(decision)  # the tracer has the decision already
            raise KeyboardInterrupt

        session.on_decision = interrupt
        for block in blocks[blocks_fed:]:
            events += tracer.feed(block)
    trace = read_trace(path)
    assert not trace.header.finished
    assert [item.name for item in tmp_path.iterdir()] == ["cut.trace"]
    assert blocks_fed <= len(trace.feeds) < len(blocks)
    assert events == list(trace.events) == replay(trace, digits)
    assert len(trace.decisions) == 0 or trace.decisions["time_s"].max() <= trace.duration_s


def test_a_refused_block_is_not_part_of_the_trace(digits: be.Model, waveform: Floats, tmp_path: Path) -> None:
    with Tracer(digits.session(source="en"), tmp_path / "a.trace") as tracer:
        tracer.feed(waveform[:100])
        with pytest.raises(AudioError):
            tracer.feed(np.full(5, np.nan, np.float32))
    assert read_trace(tmp_path / "a.trace").feeds["samples"].tolist() == [100]
    tracer.close()


def test_nothing_is_written_if_nothing_was_heard_or_the_name_is_taken(digits: be.Model, tmp_path: Path) -> None:
    with Tracer(digits.session(source="en"), tmp_path / "a.trace"):
        pass
    assert not list(tmp_path.iterdir())
    (tmp_path / "talk.wav").write_bytes(b"a recording")
    with pytest.raises(TraceError, match="exists; a trace replaces no file, choose another name"):
        Tracer(digits.session(source="en"), tmp_path / "talk.wav")
    with pytest.raises(TraceError, match="no such directory"):
        Tracer(digits.session(source="en"), tmp_path / "no" / "a.trace")
    assert [item.name for item in tmp_path.iterdir()] == ["talk.wav"]


def test_a_policy_of_your_own_is_named_and_replaced(digits: be.Model, waveform: Floats, tmp_path: Path) -> None:
    class Mine(be.Policy):
        pass

    trace, _ = record(digits.session(source="en", policy=Mine()), [waveform[:32000]], tmp_path / "a.trace")
    with pytest.raises(TraceError, match=r"recorded with policy .*Mine; replay it with one of wait-k, offline"):
        replay(trace, digits)
    assert replay(trace, digits, policies=[Mine()]) == list(trace.events)


def test_another_bundle_is_refused_unless_wanted(recorded: Trace, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(embedded_bundle("demo"), copy)
    manifest = json.loads((copy / "bundle.json").read_text(encoding="utf-8"))
    (copy / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(TraceError, match=r"recorded with bundle \(of the same checkpoint\) \w{12}, .*copy has \w{12};"):
        replay(recorded, be.load(copy, threads=1))
    manifest["checkpoint_sha256"] = "0" * 64
    (copy / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    other = be.load(copy, threads=1)
    with pytest.raises(TraceError, match=r"recorded with checkpoint .* has 000000000000; name the recorded one"):
        replay(recorded, other)
    assert tuple(replay(recorded, other, any_bundle=True)) == recorded.events


def rewritten(source: Path, target: Path, **members: Callable[[bytes], bytes]) -> Path:
    """Copy a trace with other content in some members; checksums are right."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, members.get(name.partition(".")[0], lambda content: content)(old.read(name)))
    return target


@pytest.mark.parametrize(
    ("member", "change", "message"),
    [
        ("header", lambda text: text.replace(b'"format_version": 1', b'"format_version": 2'), "format 2, expected 1"),
        ("header", lambda text: text.replace(b"bestow-edge-trace", b"other"), "not a trace; expected a file as"),
        ("header", lambda text: text.replace(b"lookahead", b"lookback"), "header.json: unknown lookback"),
        ("header", lambda _: b"[", "not a trace, or truncated or altered"),
        ("samples", lambda raw: raw[:-4], "samples.f32 has .* bytes, feeds.npy .* samples"),
        ("feeds", lambda raw: raw[:-1], "not a trace, or truncated or altered"),
        ("events", lambda _: b'[{"event": "text"}]', "events.json: text is missing"),
        ("events", lambda _: b"{}[", "not a trace, or truncated or altered"),
    ],
)
def test_altered_content(
    recorded: Trace, tmp_path: Path, member: str, change: Callable[[bytes], bytes], message: str
) -> None:
    with pytest.raises(TraceError, match=message):
        read_trace(rewritten(recorded.path, tmp_path / "a.trace", **{member: change}))


def test_pickled_arrays_are_refused(recorded: Trace, tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    objects = (tmp_path / "objects.npy").read_bytes()
    for name in (FEEDS, DECISIONS):
        path = rewritten(recorded.path, tmp_path / name, **{name.partition(".")[0]: lambda _: objects})
        with pytest.raises(TraceError, match="object"):
            read_trace(path)


def test_missing_foreign_truncated_and_flipped_files(recorded: Trace, tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    with pytest.raises(TraceError, match="no such file"):
        read_trace(path)
    with pytest.raises(TraceError, match="not a trace, or truncated"):
        read_trace(EXAMPLE)
    with pytest.raises(TraceError, match="not a trace; expected"):
        read_trace(embedded_bundle("demo") / "golden.npz")
    whole = recorded.path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(TraceError, match="truncated"):
            read_trace(path)
    refused = 0
    for place in np.linspace(0, len(whole) - 1, 300).astype(int):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            got = read_trace(path)
        except TraceError:
            refused += 1
        else:  # a byte that nothing depends on, such as a time stamp
            assert (got.header, got.events) == (recorded.header, recorded.events)
    assert refused > 250


def test_the_header_names_nothing_of_this_machine(recorded: Trace) -> None:
    with zipfile.ZipFile(recorded.path) as archive:
        text = archive.read(HEADER).decode()
    assert "/" not in text
    assert str(recorded.path.parent) not in text


def test_a_beam_is_replayed_and_given_up_for_a_policy_that_streams(
    digits: be.Model, waveform: Floats, tmp_path: Path
) -> None:
    session = digits.session(source="en", policy=be.Offline(), beam_size=3)
    trace, events = record(session, [waveform], tmp_path / "a.trace")
    assert replay(trace, digits) == events
    assert set(trace.decisions["verdict"]) == {"write"}
    with digits.session(source="en", k=3) as plain:
        assert replay(trace, digits, policies=[be.WaitK(3, 4)]) == plain.feed(waveform) + plain.finish()


def test_a_bidirectional_bundle(bidirectional_bundle: Path, speech: Floats, tmp_path: Path) -> None:
    model = be.load(bidirectional_bundle, threads=1)
    trace, events = record(model.session(source="de", k=2), [speech[:32000]], tmp_path / "a.trace")
    assert trace.header.lookahead == model.config.encoder.default_right_context
    assert replay(trace, model) == events != []
