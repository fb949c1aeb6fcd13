"""Write people's transcripts as a Whisper would, with capitals and punctuation, and find the times of their words.

    python examples/people/teach.py WHISPER START DATA human/librispeech/train.jsonl human/common_voice_en/train.jsonl

For each manifest of DATA, `written/CORPUS/NAME.jsonl` gets the same recordings. The words are those of the transcript.
Where it has capitals (`text_raw`) its own spelling stays; otherwise each word that Whisper heard too is spelt as
Whisper does. Times that are missing come from Whisper's alignment heads by dynamic time warping. START is the
checkpoint of `bestow-edge init`, for its features. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from torch import Tensor
from transformers import WhisperForConditionalGeneration, WhisperTokenizerFast
from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter

from bestow_edge.core.checkpoint import load_config
from bestow_edge.core.config import FeatureConfig
from bestow_edge.core.features import log_mel
from bestow_edge.model.encoders.whisper import encode
from bestow_edge.runtime.audio.files import read_audio

Fields = dict[str, Any]  # Any: the fields of a manifest's line
PROMPT = ("<|startoftranscript|>", "<|{}|>", "<|transcribe|>", "<|notimestamps|>")
SILENCE_S = 3.0  # without silence behind it, Whisper does not find the end
POSITION_S = 0.02
BATCH_S = 240.0  # seconds of audio encoded at once
MOST_TOKENS_A_S = 8
MEDIAN = 7  # positions; width of the filter over attention, as Whisper's own timing has it


class Teacher:
    """A Whisper that hears and aligns batches of recordings of one language."""

    def __init__(self, folder: Path, features: FeatureConfig) -> None:
        self.features = features
        self.tokenizer = WhisperTokenizerFast.from_pretrained(folder)
        load = WhisperForConditionalGeneration.from_pretrained
        self.model: Any = load(folder, attn_implementation="sdpa").eval()
        self.aligner: Any = load(folder, attn_implementation="eager").eval().model.decoder  # which shows its attention
        self.heads = self.model.generation_config.alignment_heads
        self.end = self.tokenizer.eos_token_id

    def prompt(self, language: str) -> list[int]:
        """Return the ids of the prompt for transcription."""
        ids: list[int] = self.tokenizer.convert_tokens_to_ids([token.format(language) for token in PROMPT])
        return ids

    def encode(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> Tensor:
        """Return (recordings, positions, width), each with silence behind it."""
        rate = self.features.sample_rate_hz
        length = max(map(len, waveforms)) + int(SILENCE_S * rate)
        mel = np.stack([log_mel(np.pad(one, (0, length - len(one))), self.features) for one in waveforms])
        mask = torch.ones(mel.shape[:2], dtype=torch.bool)
        encoder = self.model.model.encoder
        steps, _ = encode(encoder, None, torch.from_numpy(mel), mask, 0)  # type: ignore[arg-type]
        return steps.reshape(len(mel), -1, self.model.config.d_model)

    def hear(self, speech: Tensor, language: str, most: int) -> list[str]:
        """Return greedy transcripts of encoded recordings, each of at most `most` tokens."""
        tokens = torch.tensor([self.prompt(language)]).repeat(len(speech), 1)
        done, cache, texts = torch.zeros(len(speech), dtype=torch.bool), None, tokens[:, :0]
        while texts.shape[1] < most and not done.all():
            out = self.model.model.decoder(
                input_ids=tokens, encoder_hidden_states=speech, past_key_values=cache, use_cache=True
            )
            logits = self.model.proj_out(out.last_hidden_state[:, -1])
            logits[:, self.end + 1 :] = -torch.inf
            tokens, cache = logits.argmax(-1, keepdim=True), out.past_key_values
            done |= tokens[:, 0] == self.end
            tokens = tokens.masked_fill(done[:, None], self.end)
            texts = torch.cat([texts, tokens], 1)
        return [text.strip() for text in self.tokenizer.batch_decode(texts, skip_special_tokens=True)]

    def align(
        self, speech: Tensor, texts: Sequence[str], seconds: Sequence[float], language: str
    ) -> list[list[Fields]]:
        """Return start and end of each word of each text, in seconds, as pairs."""
        prompt = self.prompt(language)
        words = [text.split() for text in texts]
        pieces = [[self.tokenizer.encode(f" {word}", add_special_tokens=False) for word in one] for one in words]
        rows = [[*prompt, *(token for piece in one for token in piece), self.end] for one in pieces]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [self.end] * (longest - len(row)) for row in rows])
        out = self.aligner(input_ids=ids, encoder_hidden_states=speech, output_attentions=True)
        attention = torch.stack([out.cross_attentions[layer][:, head] for layer, head in self.heads], 1).float()
        found = []
        for row, one, length_s in zip(attention, pieces, seconds, strict=True):
            count = sum(map(len, one))
            real = row[:, len(prompt) - 1 : len(prompt) + count, : max(1, round(length_s / POSITION_S))]
            scaled = (real - real.mean(-2, keepdim=True)) / real.std(-2, keepdim=True).clamp(min=1e-6)
            cost = -_median_filter(scaled, MEDIAN).mean(0).double().numpy()  # (tokens + end, positions)
            text_path, time_path = _dynamic_time_warping(cost)
            begins = time_path[np.searchsorted(text_path, np.arange(count + 1))] * POSITION_S
            edges = np.concatenate([[0], np.cumsum([len(piece) for piece in one])]).astype(int)
            spans = zip(begins[edges[:-1]], begins[edges[1:]], strict=True)
            found.append([[round(float(begin), 3), round(float(min(end, length_s)), 3)] for begin, end in spans])
        return found


def spelt(spoken: str, heard: str) -> str:
    """Return the words of a transcript, those that were heard too with the capitals and punctuation of `heard`."""
    words, theirs = spoken.split(), heard.split()
    plain = [re.sub(r"[^\w']", "", word.lower()) for word in theirs]
    for tag, first, last, their_first, their_last in difflib.SequenceMatcher(
        None, words, plain, autojunk=False
    ).get_opcodes():
        if tag == "equal":
            words[first:last] = theirs[their_first:their_last]
    return " ".join(words)[:1].upper() + " ".join(words)[1:]


def batches(lines: Sequence[Fields]) -> Iterator[list[Fields]]:
    """Yield lines of about the same duration, up to `BATCH_S` seconds at once."""
    batch: list[Fields] = []
    for line in sorted(lines, key=lambda line: float(line["duration"])):
        if batch and (len(batch) + 1) * (line["duration"] + SILENCE_S) > BATCH_S:
            yield batch
            batch = []
        batch.append(line)
    if batch:
        yield batch


def respell(manifest: Path, out: Path) -> None:
    """Write the manifest of speech whose words have times: the texts as written, if they have as many words."""
    lines = map(json.loads, manifest.read_text(encoding="utf-8").splitlines())
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8") as file:
        for line in lines:
            if len(line["text_raw"].split()) == len(line["word_times"]):
                audio = os.path.relpath(manifest.parent / line["audio_filepath"], out.parent)
                line |= {"audio_filepath": audio, "text": line["text_raw"]}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


@torch.inference_mode()
def written(teacher: Teacher, manifest: Path, out: Path) -> None:
    """Write the manifest of one corpus."""
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    out.parent.mkdir(parents=True, exist_ok=True)
    results = []
    for batch in track(list(batches(lines)), description=str(out)):
        waveforms = [read_audio(manifest.parent / line["audio_filepath"], 16_000) for line in batch]
        seconds, language = [len(one) / 16_000 for one in waveforms], batch[0]["source_lang"]
        with torch.autocast("cpu", torch.bfloat16):
            speech = teacher.encode(waveforms).float()
        if all(line.get("text_raw", line["text"]).isupper() or "text_raw" not in line for line in batch):
            heard = teacher.hear(speech, language, int(max(seconds) * MOST_TOKENS_A_S) + 8)
            texts = [spelt(line["text"], text) for line, text in zip(batch, heard, strict=True)]
        else:
            texts = [line.get("text_raw", line["text"]) for line in batch]
        for line, text, times in zip(batch, texts, teacher.align(speech, texts, seconds, language), strict=True):
            audio = os.path.relpath(manifest.parent / line["audio_filepath"], out.parent)
            results.append(line | {"audio_filepath": audio, "text": text, "word_times": times})
    out.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in results), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whisper", type=Path, help="folder of a Whisper")
    parser.add_argument("start", type=Path, help="checkpoint of bestow-edge init")
    parser.add_argument("data", type=Path, help="directory of the corpora")
    parser.add_argument("manifests", nargs="+", help="manifests, relative to it")
    options = parser.parse_args(arguments)
    teacher = Teacher(options.whisper, load_config(options.start).features)
    for name in options.manifests:
        manifest = options.data / name
        out = options.data / "written" / manifest.parent.name / manifest.name
        if out.is_file():
            continue
        with manifest.open(encoding="utf-8") as file:
            timed = "word_times" in json.loads(file.readline())
        if timed:
            respell(manifest, out)
        else:
            written(teacher, manifest, out)


if __name__ == "__main__":
    main()
