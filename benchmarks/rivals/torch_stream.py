"""The same weights in PyTorch with transformers' own caches: a whole stream, in the best dtypes for this machine.

    python benchmarks/rivals/torch_stream.py CHECKPOINT WAVEFORM.npy --tokens N [--lookahead 13] [--threads 1]

Encoder and LLM are each timed in bfloat16 and float32, the LLM with a cache that grows and with one of fixed size; the
fastest is taken. Then the waveform is streamed under wait-k: chunks with the encoder's caches, keys and values of the
speech computed once, a token whenever its speech is there, N tokens in all, as many as the bundle's stream had. The
front-end and the adapter's step are ours; nothing else of the runtime is used. Prints one JSON line.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from bestow_edge.core.checkpoint import TOKENIZER_FILE, WEIGHTS_FILE
from bestow_edge.core.features import feed_features, finish_features, initial_feature_state
from bestow_edge.core.policy import WaitK
from bestow_edge.core.specs.chunked import FIRST_FRAME, ChunkedConfig
from bestow_edge.export.graphs.base import speech_side
from bestow_edge.export.graphs.cross_adapter import AdapterStep
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.checkpoint import skeleton
from bestow_edge.training.data.tokens import prompt_ids

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
PAST_TOKENS = 100  # in the LLM's cache where its step is timed
TRIAL_CHUNKS, TRIAL_STEPS = 5, 10
FRAMES_PER_STEP = ChunkedConfig.frames_per_step
BLOCK = 1280  # samples heard at once, 80 ms


def load(checkpoint: Path) -> SpeechModel:
    """Return the model with the weights as they are stored."""
    model = skeleton(checkpoint)
    model.load_state_dict(load_file(checkpoint / WEIGHTS_FILE), strict=False, assign=True)
    model.llm.tie_weights()
    return model.requires_grad_(False)


class EncoderCaches:
    """transformers' caches of one stream."""

    def __init__(self, encoder: Any) -> None:  # Any: transformers' models have no types
        self.options: dict[str, Any] = {"past_key_values": DynamicCache(config=encoder.config), "padding_cache": None}

    def encode(self, encoder: Any, frames: Tensor, lookahead: int) -> Tensor:
        """Encode (1, frames, mel_bins) behind what was encoded before; return (1, steps, width)."""
        out = encoder(frames, use_cache=True, num_lookahead_tokens=lookahead, **self.options)
        self.options = {"past_key_values": out.past_key_values, "padding_cache": out.padding_cache}
        return out.last_hidden_state


class TextCaches:
    """Adapter and LLM of one text: caches, and the speech it attends to."""

    def __init__(self, model: SpeechModel, step: AdapterStep, cache: str, tokens: int, steps: int) -> None:
        """Allocate for that many tokens and steps."""
        self.llm, self.step = model.llm, step
        adapter, dtype = model.config.connector, model.llm.dtype
        self.cache = DynamicCache() if cache == "dynamic" else StaticCache(model.llm.config, max_cache_len=tokens)
        memory = (adapter.num_heads, steps, adapter.head_dim)
        own = (1, adapter.num_heads, tokens, adapter.head_dim)
        both = 2 * adapter.num_layers  # keys and values of each layer
        self.memory, self.own = (tuple(torch.zeros(s, dtype=dtype) for _ in range(both)) for s in (memory, own))
        self.heard = self.past = 0

    def hear(self, keys: Tensor, values: Tensor) -> None:
        """Keep cross-attention keys and values of new steps, (layers, 1, heads, steps, head_dim)."""
        end = self.heard + keys.shape[3]
        by_layer = (new[layer, 0] for layer in range(keys.shape[0]) for new in (keys, values))
        for kept, new in zip(self.memory, by_layer, strict=True):
            kept[:, self.heard : end] = new
        self.heard = end

    def write(self, token_ids: list[int], visible: int) -> int:
        """Run tokens that see `visible` steps; return the next one."""
        ids, count = torch.tensor([token_ids]), len(token_ids)
        embeds, _, *new = self.step(
            ids,
            torch.full_like(ids, visible),
            torch.tensor([self.heard]),
            *(kept[:, : self.heard] for kept in self.memory),
            torch.tensor([self.past]),
            *(kept[:, :, : self.past] for kept in self.own),
        )
        for kept, tensor in zip(self.own, new, strict=True):
            kept[:, :, self.past : self.past + count] = tensor
        self.past += count
        return int(self.language(embeds).argmax())

    def language(self, embeds: Tensor) -> Tensor:
        """Run the LLM alone on (1, tokens, hidden); return the logits of the last."""
        return self.llm(inputs_embeds=embeds, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits


def chunk_ms(model: SpeechModel, lookahead: int) -> float:
    """Time a chunk of the encoder, ms."""
    frames = torch.zeros(
        1, (lookahead + 1) * FRAMES_PER_STEP, model.config.features.num_mel_bins, dtype=dtype_of(model)
    )
    caches = EncoderCaches(model.encoder)
    return report.median(report.times_ms(lambda: caches.encode(model.encoder, frames, lookahead), TRIAL_CHUNKS))


def step_ms(model: SpeechModel, cache: str, runs: int) -> float:
    """Time a step of the LLM behind some tokens, ms."""
    text = TextCaches(model, AdapterStep(model), cache, PAST_TOKENS + runs + 2 * report.WARM_UP, 1)
    hidden, dtype = model.config.llm["hidden_size"], model.llm.dtype
    text.language(torch.zeros(1, PAST_TOKENS, hidden, dtype=dtype))
    token = torch.zeros(1, 1, hidden, dtype=dtype)
    return report.median(report.times_ms(lambda: text.language(token), runs))


def dtype_of(model: SpeechModel) -> torch.dtype:
    """Return the encoder's dtype."""
    return next(model.encoder.parameters()).dtype


@dataclass(frozen=True, slots=True)
class Choice:
    """What is fastest here."""

    encoder: str
    llm: str
    cache: str
    trials: dict[str, float]
    """Milliseconds of every trial by name."""


def choose(model: SpeechModel, lookahead: int, runs: int) -> Choice:
    """Time the dtypes and caches and convert the model to the fastest."""
    chunks, steps = {}, {}
    for name, dtype in DTYPES.items():
        model.encoder.to(dtype)
        chunks[name] = chunk_ms(model, lookahead)
        nn.ModuleList([model.connector, model.llm]).to(dtype)
        steps |= {(name, cache): step_ms(model, cache, runs) for cache in ("dynamic", "static")}
    encoder, (llm, cache) = min(chunks, key=chunks.__getitem__), min(steps, key=steps.__getitem__)
    model.encoder.to(DTYPES[encoder])
    nn.ModuleList([model.connector, model.llm]).to(DTYPES[llm])
    trials = {f"encoder {name}": ms for name, ms in chunks.items()}
    return Choice(encoder, llm, cache, trials | {f"llm {name} {kind}": ms for (name, kind), ms in steps.items()})


def chunks_of(waveform: np.ndarray, model: SpeechModel, lookahead: int) -> Iterator[Tensor]:
    """Yield mel frames chunk by chunk as the waveform is heard, (1, frames, mel_bins); the last may be shorter."""
    features, state = model.config.features, initial_feature_state(model.config.features)
    waiting = np.zeros((0, features.num_mel_bins), np.float32)
    size = (lookahead + 1) * FRAMES_PER_STEP - FIRST_FRAME  # the first chunk pads itself
    for start in range(0, waveform.size, BLOCK):
        frames, state = feed_features(waveform[start : start + BLOCK], state, features)
        waiting = np.concatenate([waiting, frames])
        while waiting.shape[0] >= size:
            yield torch.from_numpy(waiting[None, :size].copy()).to(dtype_of(model))
            waiting, size = waiting[size:], (lookahead + 1) * FRAMES_PER_STEP
    waiting = np.concatenate([waiting, finish_features(state, features)])
    whole = waiting.shape[0] // FRAMES_PER_STEP * FRAMES_PER_STEP
    if whole:
        yield torch.from_numpy(waiting[None, :whole].copy()).to(dtype_of(model))


def stream(
    model: SpeechModel,
    waveform: np.ndarray,
    prompt: list[int],
    choice: Choice,
    policy: WaitK,
    lookahead: int,
    most: int,
) -> dict[str, float]:
    """Hear a waveform and write `most` tokens; return what it took."""
    step, project = AdapterStep(model), speech_side(model)
    steps = waveform.size // (BLOCK // 2)  # more than there will be
    started = time.perf_counter()
    caches, text = EncoderCaches(model.encoder), TextCaches(model, step, choice.cache, len(prompt) + most, steps)
    text.write(prompt[:-1], 0)
    token, written, chunks = prompt[-1], 0, 0
    for frames in chunks_of(waveform, model, lookahead):
        encoded = caches.encode(model.encoder, frames, lookahead).to(model.llm.dtype)
        text.hear(*project(encoded))
        chunks += 1
        while written < most and policy.steps_needed(written) <= text.heard:
            token, written = text.write([token], policy.steps_needed(written)), written + 1
    while written < most:
        token, written = text.write([token], text.heard), written + 1
    return {"computing_s": time.perf_counter() - started, "chunks": chunks, "tokens": written, "steps": text.heard}


@torch.inference_mode()
def main() -> None:
    """Time the parts, then the stream."""
    parser = report.parser(__doc__, "checkpoint", "waveform")
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--lookahead", type=int, default=13)
    parser.add_argument("--k", type=int, default=6)
    parser.add_argument("--l", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load(args.checkpoint)
    waveform = np.load(args.waveform)
    tokenizer = Tokenizer.from_file(str(args.checkpoint / TOKENIZER_FILE))
    prompt = prompt_ids(tokenizer, model.config.pairs[0], model.config.chat)
    choice = choose(model, args.lookahead, min(args.runs, TRIAL_STEPS))
    took = stream(model, waveform, prompt, choice, WaitK(args.k, args.l), args.lookahead, args.tokens)
    audio_s = waveform.size / model.config.features.sample_rate_hz
    dtypes = {"encoder_dtype": choice.encoder, "llm_dtype": choice.llm, "llm_cache": choice.cache}
    trials = {name: round(ms, 3) for name, ms in choice.trials.items()}
    report.tell(**took, rtf=took["computing_s"] / audio_s, **dtypes, trials_ms=trials, version=torch.__version__)


if __name__ == "__main__":
    main()
