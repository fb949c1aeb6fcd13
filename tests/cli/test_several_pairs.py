"""Several language pairs on one stream: lines, JSON, traces, and what is refused."""

import json
from pathlib import Path

import pytest
from commands import run_demo

pytest.importorskip("soundfile")
EXAMPLE = Path(__file__).parents[2] / "examples" / "audio" / "digits_en.wav"
LANGS = ("en-en", "en-de")
BOTH = ("--lang", ",".join(LANGS))


def alone(capsys: pytest.CaptureFixture[str], *options: object) -> list[str]:
    """Return the text of each pair, asked for alone."""
    runs = [run_demo(capsys, "run", EXAMPLE, "--lang", lang, *options)[1] for lang in LANGS]
    assert all(len(out) > 10 for out in runs)
    return [out.removesuffix("\n") for out in runs]


def joined(out: str, lang: str, prefix: str = "") -> str:
    """Return a pair's lines put together."""
    start = f"{prefix}{lang}: "
    return "".join(line.removeprefix(start) for line in out.splitlines() if line.startswith(start))


def test_a_line_for_each_pair(capsys: pytest.CaptureFixture[str]) -> None:
    english, german = alone(capsys)
    assert run_demo(capsys, "run", EXAMPLE, *BOTH) == (0, f"en-en: {english}\nen-de: {german}\n", "")
    turned = run_demo(capsys, "run", EXAMPLE, EXAMPLE, "--lang", "en-de,en-en")[1]
    assert turned == f"{EXAMPLE}: en-de: {german}\n{EXAMPLE}: en-en: {english}\n" * 2


def test_streamed_lines_put_together_are_the_texts(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = alone(capsys, "--stream", "--lookahead", 1)
    code, out, err = run_demo(capsys, "run", EXAMPLE, "--stream", "--lookahead", 1, *BOTH)
    assert (code, err) == (0, "")
    assert [joined(out, lang) for lang in LANGS] == wanted
    first = [line[:5] for line in out.splitlines()]
    assert set(first) == set(LANGS)
    assert first.index("en-de") < len(first) - 1 - first[::-1].index("en-en")  # not one text behind the other
    _, out, _ = run_demo(capsys, "run", EXAMPLE, EXAMPLE, "--stream", "--lookahead", 1, *BOTH)
    assert [joined(out, lang, f"{EXAMPLE}: ") for lang in LANGS] == [text * 2 for text in wanted]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_demo(capsys, "run", EXAMPLE, "--json", *BOTH)
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert set(record) == {"file", "lang", "texts", "cues", "duration_s", "wall_s", "rtf", "policy"}
    assert (record["lang"], list(record["texts"].values())) == ("en-en,en-de", alone(capsys))
    assert tuple(record["texts"]) == tuple(record["cues"]) == LANGS
    record = json.loads(run_demo(capsys, "run", EXAMPLE, "--stream", "--json", *BOTH)[1])
    for lang in LANGS:
        told = [event["text"] for event in record["events"] if event.get("lang") == lang]
        assert "".join(told) == record["texts"][lang] != ""
    assert {event["event"] for event in record["events"] if "lang" not in event} == {"segment-start", "segment-end"}


def test_a_latency_is_for_all_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_demo(capsys, "run", EXAMPLE, "--stream", "--latency", "2s", *BOTH)
    assert (code, err) == (0, "latency 2 s: K=3, L=4, look-ahead 13 (2.00 s)")
    assert [joined(out, lang) for lang in LANGS] == alone(capsys, "--stream", "--k", 3)


def test_a_trace_of_several_pairs_is_replayed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "both.trace"
    code, out, err = run_demo(capsys, "run", EXAMPLE, "--stream", "--k", 4, "--trace", path, *BOTH)
    assert (code, err) == (0, "")
    texts = "".join(f"{lang}: {joined(out, lang)}\n" for lang in LANGS)
    assert run_demo(capsys, "replay", path) == (0, f"{texts}same text as recorded\n", "")
    code, out, err = run_demo(capsys, "replay", path, "--policy", "align-att", "--threshold", 6, "--json")
    record = json.loads(out)
    assert (code, err, record["changed"]) == (0, "", True)
    assert [both["lang"] for both in record["texts"]] == list(LANGS)
    assert [f"{both['lang']}: {both['recorded']['text']}\n" for both in record["texts"]] == texts.splitlines(True)
    replayed = [both["replayed"] for both in record["texts"]]
    assert all(one["policy"]["name"] == "align-att" and one["policy"]["threshold"] == 6 for one in replayed)
    options = ["--stream", "--policy", "align-att", "--threshold", 6]
    assert [one["text"] for one in replayed] == alone(capsys, *options)


@pytest.mark.parametrize("command", [["run", EXAMPLE], ["run", EXAMPLE, "--stream"], ["mic"]])
@pytest.mark.parametrize(
    ("lang", "message"),
    [
        (
            "en-en,de-en",
            "error: language pairs en-en and de-en: a stream has one language; give pairs of the same SOUR",
        ),
        ("en-de,en-en,en-de", "error: language pair en-de is given twice; give each pair once"),
        ("en-en,", "error: language pair '': expected SOURCE-TARGET such as en-de"),
    ],
)
def test_wrong_pairs(capsys: pytest.CaptureFixture[str], command: list[object], lang: str, message: str) -> None:
    code, out, err = run_demo(capsys, *command, "--lang", lang)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(message)


def test_an_untrained_pair_among_them(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_demo(capsys, "run", EXAMPLE, "--lang", "en-en,en-fr")
    assert (code, out) == (2, "")
    assert err == "error: language pair en-fr: this model was trained for en-en, de-de, en-de, de-en"
