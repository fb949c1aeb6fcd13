"""What the embedded demo can do: transcripts, translations and answers on sentences, voices and people it never heard.

    python benchmarks/demo_model.py --data DATA --work DIR [--bundle BUNDLE] [--checkpoint CKPT] [--parts sets,...]

DATA holds human/, text/ and what `bash examples/demo/speak.sh DATA` speaks: synthetic/. Parts:

sets        every test set, streaming and offline, by `bestow-edge eval`
curve       quality over latency of synthetic English to German, K from 2 to 12
lookaheads  the four look-aheads at the bundle's K
policies    wait-k against AlignAtt
precision   the bundle against --reference, a bundle of fp32, both streaming
questions   answers about speech, beside the LLM alone on the written passage and on the transcript
translations  likewise, translations of synthetic speech

The last two need --checkpoint, what the bundle was exported from; without a bundle `texts` is the LLM alone on what was
written, which a checkpoint of examples/demo/text.yaml can do too.

DIR keeps everything that was written; the same command goes on. Needs the extras `cpu` and `eval`, and `train` for
--checkpoint. Prints tables and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from bestow_edge.core.prompts import Written, WrittenPassage, WrittenText
from bestow_edge.evaluation.scores.quality import score_texts
from bestow_edge.training.data.corpora.text_batches import TextFile
from bestow_edge.training.data.corpora.words import plain


class TestSet(NamedTuple):
    """Recordings of one kind and what is asked about them."""

    name: str
    manifest: str
    pair: str


SETS = [
    TestSet("synthetic English", "synthetic/en_test/manifest.jsonl", "en-en"),
    TestSet("synthetic German", "synthetic/de_test/manifest.jsonl", "de-de"),
    TestSet("synthetic English", "synthetic/en_test/manifest.jsonl", "en-de"),
    TestSet("synthetic German", "synthetic/de_test/manifest.jsonl", "de-en"),
    TestSet("LibriSpeech", "human/librispeech/test.jsonl", "en-en"),
    TestSet("Common Voice English", "human/common_voice_en/test.jsonl", "en-en"),
    TestSet("Common Voice German", "human/common_voice_de/test.jsonl", "de-de"),
    TestSet("AN4", "human/an4/test.jsonl", "en-en"),
]
QUESTIONS = [
    TestSet("toy questions", "synthetic/toy_qa_en_test/manifest.jsonl", "en"),
    TestSet("toy questions", "synthetic/toy_qa_de_test/manifest.jsonl", "de"),
    TestSet("XQuAD, short", "synthetic/xquad_en_test/manifest.jsonl", "en"),
    TestSet("XQuAD, short", "synthetic/xquad_de_test/manifest.jsonl", "de"),
]
CURVE_K = "2,3,4,5,6,8,10,12"
THRESHOLDS = "2,4,8,12"
MOST_TOKENS = 60
Row = dict[str, Any]  # Any: numbers and names, as JSON


class Evaluations:
    """Runs `bestow-edge eval` and keeps what it writes."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Take data, bundle, threads and working directory from the command line."""
        self.args = args

    def run(self, test: TestSet, *options: str, bundle: Path | None = None, part: str) -> list[Row]:
        """Return one row for each setting.

        Args:
            test: what is heard and asked.
            *options: of `bestow-edge eval`.
            bundle: another one than the command line's.
            part: name of the part, for the directory.
        """
        used = bundle or self.args.bundle
        command = [sys.executable, "-m", "bestow_edge.cli.main", "eval", str(self.manifest(test))]
        command += ["--audio", str((self.args.data / test.manifest).parent), "--lang", test.pair]
        command += ["--out", str(self.directory(test, part)), "--json"]
        command += ["--threads", str(self.args.threads), *options, *(["--bundle", str(used)] if used else [])]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        record = json.loads(found.stdout)
        return [row(test, record, setting) for setting in record["settings"]]

    def manifest(self, test: TestSet) -> Path:
        """Return a test set's manifest, or the beginning of it."""
        whole = Path(self.args.data / test.manifest)
        if not self.args.first:
            return whole
        begin = Path(self.args.work) / f"first_{self.args.first}" / f"{whole.parent.name}.jsonl"
        begin.parent.mkdir(parents=True, exist_ok=True)
        said = whole.read_text(encoding="utf-8").splitlines(keepends=True)
        begin.write_text("".join(said[: self.args.first]), encoding="utf-8")
        return begin

    def directory(self, test: TestSet, part: str) -> Path:
        """Return where results of a test set are kept."""
        return Path(self.args.work) / part / f"{Path(test.manifest).parent.name}_{test.pair}"


def row(test: TestSet, record: dict[str, Any], setting: dict[str, Any]) -> Row:  # Any: as JSON
    """Return the figures of one setting."""
    scores = {name: round(float(score["value"]), 2) for name, score in setting["scores"].items()}
    wanted = ("wer", "wer_normalized", "bleu", "chrf", "rouge_l", "accuracy", "LAAL", "LAAL_CA", "RTF")
    return {
        "set": test.name,
        "asked": test.pair,
        "setting": setting["name"],
        "utterances": record["manifest"]["utterances"],
        **{name: scores[name] for name in wanted if name in scores},
    }


def sets(evaluations: Evaluations) -> Iterator[Row]:
    """Yield every test set at the default K and look-ahead, streaming and offline."""
    for test in SETS:
        yield from evaluations.run(test, "--policy", "wait-k,offline", part="sets")


def curve(evaluations: Evaluations) -> Iterator[Row]:
    """Yield English to German over K."""
    yield from evaluations.run(SETS[2], "--k", CURVE_K, part="curve")


def lookaheads(evaluations: Evaluations) -> Iterator[Row]:
    """Yield transcripts and translations at each look-ahead."""
    for test in (SETS[0], SETS[2]):
        yield from evaluations.run(test, "--lookahead", "13,6,1,0", part="lookaheads")


def policies(evaluations: Evaluations) -> Iterator[Row]:
    """Yield wait-k and AlignAtt."""
    for test in (SETS[0], SETS[2]):
        options = ("--policy", "wait-k,align-att", "--k", CURVE_K, "--threshold", THRESHOLDS)
        yield from evaluations.run(test, *options, part="policies")


def precision(evaluations: Evaluations) -> Iterator[Row]:
    """Yield the bundle and its reference."""
    if evaluations.args.reference is None:
        raise SystemExit("part precision needs --reference, a bundle that was exported with --precision fp32")
    for test in SETS[:4]:
        for name, bundle in (("bundle", None), ("reference", evaluations.args.reference)):
            for found in evaluations.run(test, bundle=bundle, part=f"precision_{name}"):
                yield found | {"setting": f"{name} {found['setting']}"}


def questions(evaluations: Evaluations) -> Iterator[Row]:
    """Yield answers about speech, and those of the LLM alone about the written passage and about the transcript."""
    write = written_by(evaluations.args)
    for test in QUESTIONS:
        yield from evaluations.run(test, "--questions", part="questions")
        asked = list(lines(evaluations.manifest(test)))
        references = [line["answer"] for line in asked]
        passages = {"written passage": written_passages(evaluations.args.data, test, asked)}
        passages["cascade: transcript"] = transcripts(evaluations, test._replace(pair=f"{test.pair}-{test.pair}"))
        for kind, texts in passages.items():
            made = (
                WrittenPassage(test.pair, line["question"], text or "?")
                for line, text in zip(asked, texts, strict=True)
            )
            yield alone(test, kind, references, [write(one) for one in made])


def translations(evaluations: Evaluations) -> Iterator[Row]:
    """Yield the LLM alone on transcripts: what a cascade would write."""
    write = written_by(evaluations.args)
    for test in SETS[2:4]:
        source, target = test.pair.split("-")
        heard = transcripts(evaluations, test._replace(pair=f"{source}-{source}"))
        references = [line["translations"][target] for line in lines(evaluations.manifest(test))]
        said = [write(WrittenText(source, target, text or "?")) for text in heard]
        yield alone(test, "cascade: transcript", references, said)


def texts(evaluations: Evaluations) -> Iterator[Row]:
    """Yield translations of written sentences by the LLM alone."""
    write = written_by(evaluations.args)
    rows = [cells for _, _, cells in TextFile(evaluations.args.data / "text" / "tatoeba_en-de.test.tsv.gz").rows()]
    for source, target in (("en", "de"), ("de", "en")):
        some = rows[:: len(rows) // 300]
        said = [write(WrittenText(source, target, plain(cells[source]) or cells[source])) for cells in some]
        test = TestSet("Tatoeba", "text/tatoeba_en-de.test.tsv.gz", f"{source}-{target}")
        yield alone(test, "written sentence", [cells[target] for cells in some], said)


def transcripts(evaluations: Evaluations, test: TestSet) -> list[str]:
    """Return what the bundle hears offline, in the manifest's order."""
    evaluations.run(test, "--policy", "offline", part="transcripts")
    (path,) = evaluations.directory(test, "transcripts").glob("offline*/utterances.jsonl")
    return [line["prediction"] for line in sorted(lines(path), key=lambda line: line["index"])]


def alone(test: TestSet, kind: str, references: Sequence[str], said: Sequence[str]) -> Row:
    """Return the figures of what the LLM wrote alone."""
    corpus = score_texts(references, said, language=test.pair.split("-")[-1]).corpus
    names = ("rouge_l", "accuracy") if "-" not in test.pair else ("bleu", "chrf")
    scores = {name: round(corpus[name].value, 2) for name in names}
    return {"set": test.name, "asked": test.pair, "setting": f"LLM alone, {kind}", "utterances": len(said), **scores}


def written_passages(data: Path, test: TestSet, asked: Sequence[dict[str, Any]]) -> list[str]:  # Any: as JSON
    """Return the passages of a spoken set's lines, as the LLM learns to read: in the form of transcripts."""
    kind, language = test.manifest.split("/")[1].split("_")[0], test.pair
    name = {"toy": f"toy_qa_{language}", "xquad": f"xquad_short_{language}"}[kind]
    rows = [cells for _, _, cells in TextFile(data / "text" / "qa" / f"{name}.test.tsv.gz").rows()]
    found = {(cells["question"], cells["answer"]): cells["passage"] for cells in rows}
    passages = [found[line["question"], line["answer"]] for line in asked]
    return [plain(passage) or passage for passage in passages]


def lines(path: Path) -> Iterator[dict[str, Any]]:  # Any: as JSON
    """Yield the objects of a file of JSON lines."""
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def written_by(args: argparse.Namespace) -> Callable[[Written], str]:
    """Return a function that runs the LLM without speech, greedily, in PyTorch."""
    if args.checkpoint is None:
        raise SystemExit("this part needs --checkpoint, what the bundle was exported from")
    import torch
    from llm_alone import llm_alone

    torch.set_num_threads(args.threads)
    return llm_alone(args.checkpoint, MOST_TOKENS)


PARTS: dict[str, Callable[[Evaluations], Iterator[Row]]] = {
    "sets": sets,
    "curve": curve,
    "lookaheads": lookaheads,
    "policies": policies,
    "precision": precision,
    "questions": questions,
    "translations": translations,
    "texts": texts,
}


def table(part: str, rows: Sequence[Row]) -> Table:
    """Return the rows as a table; columns are all that any row has."""
    columns = list(dict.fromkeys(name for found in rows for name in found))
    drawn = Table(*columns, title=part)
    for found in rows:
        drawn.add_row(*(str(found.get(name, "")) for name in columns))
    return drawn


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory with human/, text/ and synthetic/")
    parser.add_argument("--work", type=Path, required=True, help="directory for what is written")
    parser.add_argument("--bundle", type=Path, help="bundle directory; the embedded demo by default")
    parser.add_argument("--reference", type=Path, help="bundle of fp32, for part precision")
    parser.add_argument("--checkpoint", type=Path, help="the bundle's checkpoint, for the LLM alone")
    parser.add_argument("--first", type=int, default=0, help="so many utterances of each test set; 0 = all")
    parser.add_argument("--parts", default="sets", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if unknown := [name for name in args.parts.split(",") if name not in PARTS]:
        parser.error(f"--parts {unknown[0]}: expected some of {', '.join(PARTS)}")
    return args


def main() -> None:
    """Run the parts and print them."""
    args = arguments()
    found = {part: list(PARTS[part](Evaluations(args))) for part in args.parts.split(",")}
    for part, rows in found.items():
        Console(width=160).print(table(part, rows))
    what = {"bundle": str(args.bundle or "embedded demo"), "machine": platform.machine(), "threads": args.threads}
    print(json.dumps(what | found, ensure_ascii=False))


if __name__ == "__main__":
    main()
