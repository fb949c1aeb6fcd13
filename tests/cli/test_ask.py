"""Questions on the command line: run, replay, inspect, eval, and what is refused."""

import json
from pathlib import Path

import pytest
from commands import run_demo, run_here

pytest.importorskip("soundfile")
WHO, WHAT = "Who spoke?", "What was found?"
ASK = ("--ask", WHO, "--ask", WHAT)


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    code, out, err = run_here(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    record: dict = json.loads(out)
    return record


def test_answers_alone_and_beside_texts(capsys: pytest.CaptureFixture[str], wav: Path, asked_bundle: Path) -> None:
    alone = run_json(capsys, "run", wav, "--bundle", asked_bundle, *ASK)
    assert "text" not in alone
    assert "texts" not in alone
    assert (alone["lang"], [answer["question"] for answer in alone["answers"]]) == ("en", [WHO, WHAT])
    said = [answer["text"] for answer in alone["answers"]]
    assert all(said)
    assert alone["policy"] == alone["answers"][0]["policy"] == {"name": "offline", "lookahead": 13}
    one = run_json(capsys, "run", wav, "--bundle", asked_bundle, "--lang", "en", "--ask", WHAT)
    assert one["answers"] == alone["answers"][1:]
    both = run_json(capsys, "run", wav, "--bundle", asked_bundle, "--lang", "en-en,en-de", *ASK)
    assert (both["lang"], both["answers"]) == ("en-en,en-de", alone["answers"])
    assert both["texts"] == run_json(capsys, "run", wav, "--bundle", asked_bundle, "--lang", "en-en,en-de")["texts"]
    code, out, _ = run_here(capsys, "run", wav, "--bundle", asked_bundle, *ASK)
    assert (code, out) == (0, f"{WHO}: {said[0]}\n{WHAT}: {said[1]}\n")
    code, out, _ = run_here(capsys, "run", wav, "--bundle", asked_bundle, "--ask", WHAT)
    assert (code, out) == (0, f"{said[1]}\n")


def test_a_stream_answers_at_the_end_unless_told_otherwise(
    capsys: pytest.CaptureFixture[str], wav: Path, asked_bundle: Path, tmp_path: Path
) -> None:
    asked = ["run", wav, "--bundle", asked_bundle, "--stream", "--lang", "en-en", *ASK]
    record = run_json(capsys, *asked, "--lookahead", 6)
    assert record["policy"]["name"] == "wait-k"
    assert [answer["policy"]["name"] for answer in record["answers"]] == ["offline"] * 2
    for answer in record["answers"]:
        told = [event for event in record["events"] if event.get("question") == answer["question"]]
        assert "".join(event["text"] for event in told) == answer["text"] != ""
        assert {event["lang"] for event in told} == {"en"}
        assert all(event["heard_s"] >= 3.0 for event in told)  # all of the audio
    path = tmp_path / "asked.trace"
    record = run_json(capsys, *asked, "--k", 4, "--trace", path)
    assert record["answers"][0]["policy"] == {"name": "wait-k", "k": 4, "l": 4, "lookahead": 13}
    code, out, _ = run_here(capsys, "replay", path, "--bundle", asked_bundle)
    assert code == 0
    assert out.endswith("same text as recorded\n")
    assert f"{WHO}: {record['answers'][0]['text']}\n" in out


def test_replay_changes_the_texts_beside_questions(
    capsys: pytest.CaptureFixture[str], wav: Path, asked_bundle: Path, tmp_path: Path
) -> None:
    path, alone = tmp_path / "both.trace", tmp_path / "alone.trace"
    asked = ["run", wav, "--bundle", asked_bundle, "--stream", "--ask", WHO]
    run_here(capsys, *asked, "--lang", "en-en", "--trace", path)
    run_here(capsys, *asked, "--trace", alone)
    record = run_json(capsys, "replay", path, "--bundle", asked_bundle, "--k", 5)
    text, answer = record["texts"]
    assert (text["lang"], answer["lang"], answer["question"]) == ("en-en", "en", WHO)
    assert text["replayed"]["policy"]["k"] == 5
    assert answer["recorded"] == answer["replayed"]
    record = run_json(capsys, "replay", path, "--bundle", asked_bundle, "--policy", "wait-k")
    assert record["texts"][1]["replayed"]["policy"]["name"] == "wait-k"
    code, out, err = run_here(capsys, "replay", alone, "--bundle", asked_bundle, "--k", 5)
    assert (code, out) == (2, "")
    assert "k: policy offline has none" in err


def test_inspect_says_who_answers(
    capsys: pytest.CaptureFixture[str], asked_bundle: Path, tiny_checkpoint: Path
) -> None:
    assert "about speech in en" in run_here(capsys, "inspect", asked_bundle)[1]
    assert run_json(capsys, "inspect", asked_bundle)["model"]["questions"] == ["en"]
    assert run_json(capsys, "inspect", tiny_checkpoint)["model"]["questions"] == []
    (row,) = [line for line in run_here(capsys, "inspect", tiny_checkpoint)[1].splitlines() if "questions" in line]
    assert "none" in row


def test_what_is_refused(capsys: pytest.CaptureFixture[str], wav: Path, asked_bundle: Path, tiny_bundle: Path) -> None:
    tiny, unasked = ["--bundle", asked_bundle], ["--bundle", tiny_bundle]
    for arguments, message in [
        (
            ["run", wav, *unasked, "--ask", WHO],
            "error: this model was not trained to answer questions about speech; ask one",
        ),
        (
            ["run", wav, *unasked, "--lang", "en-en", "--ask", WHO],
            "error: this model was not trained to answer questions",
        ),
        (["run", wav, *tiny, "--lang", "de", "--ask", WHO], "question about speech in de: this model answers"),
        (["run", wav, *tiny, "--ask", "  "], "error: the question is empty; write one"),
        (["run", wav, *tiny, "--ask", WHO, "--ask", f" {WHO}"], f"error: question '{WHO}' is given twice; give each"),
        (["run", wav, *tiny, "--ask", "one two " * 99], "is too long: its prompt has"),
        (["run", wav, *tiny, *ASK, "--beam", 3], "give one pair or question and no stream"),
        (["run", wav, *tiny, "--lang", "en-xx", "--ask", WHO], "language pair 'en-xx': expected"),
        (["mic", "--ask", " "], "error: the question is empty; write one"),
        (
            ["eval", wav, "--out", "x", "--lang", "en-de", "--questions"],
            "--lang en-de: with --questions give the langu",
        ),
    ]:
        code, out, err = run_demo(capsys, *arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1), (arguments, err)
        assert message in err
    beam = run_json(capsys, "run", wav, *tiny, "--ask", WHAT, "--beam", 3)
    assert beam["answers"][0]["policy"]["beam"] == 3


def test_answers_of_a_manifest_are_scored(
    capsys: pytest.CaptureFixture[str], wav: Path, asked_bundle: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    for module in ("jiwer", "sacrebleu", "matplotlib", "whisper_normalizer"):
        pytest.importorskip(module)
    said = run_json(capsys, "run", wav, "--bundle", asked_bundle, *ASK)["answers"]
    spoken = {"audio_filepath": wav.name, "duration": 3.0, "source_lang": "en"}
    lines = [
        spoken | {"question": WHO, "answer": said[0]["text"]},
        spoken | {"question": WHAT, "answer": "nothing at all"},
        spoken | {"text": "no question"},
    ]
    manifest, out = wav.parent / "qa.jsonl", tmp_path / "scores"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    asked = ["eval", manifest, "--lang", "en", "--bundle", asked_bundle, "--out", out]
    code, table, err = run_here(capsys, *asked, "--questions")
    assert code == 0, err
    assert "1 lines of" in err
    assert "have no question and are left out" in err
    assert "rouge_l" in table
    record = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert (record["pair"], record["metric"], record["manifest"]["utterances"]) == ("questions about en", "rouge_l", 2)
    (setting,) = record["settings"]
    assert setting["name"] == "offline_lookahead13"
    assert setting["scores"]["accuracy"]["value"] == 50
    assert {"rouge_l", "accuracy", "bleu"} <= set(setting["scores"])
    texts = (out / "offline_lookahead13" / "utterances.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["question"] for line in texts] == [WHO, WHAT]
    assert [json.loads(line)["prediction"] for line in texts] == [" ".join(one["text"].split()) for one in said]
    code, _, err = run_here(capsys, *asked)
    assert code == 2
    assert "no text in en, it has none" in err
    other = ["eval", manifest, "--lang", "en", "--bundle", tiny_bundle, "--out", tmp_path / "other"]
    demo = run_here(capsys, *other, "--questions")
    assert demo[0] == 2
    assert demo[2].rstrip().endswith("ask one that was: `bestow-edge inspect` tells")
