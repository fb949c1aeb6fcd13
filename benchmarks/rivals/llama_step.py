"""The LLM's step in llama.cpp: a GGUF file of the checkpoint's shape with random Q4_0 blocks, all matrices in Q4_0.

    python benchmarks/rivals/llama_step.py CHECKPOINT WORK [--threads 1]

Values do not change how long a step takes. The step is timed behind 100 tokens. Prints one JSON line.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import report

from bestow_edge.core.checkpoint import load_config

PAST_TOKENS = 100
BLOCK_WEIGHTS, BLOCK_BYTES = 32, 18  # of Q4_0: a float16 scale and 32 nibbles


def shapes(llm: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Return llama.cpp's names of the tensors and their shapes, (outputs, inputs) or (width,)."""
    hidden, inner, vocab = llm["hidden_size"], llm["intermediate_size"], llm["vocab_size"]
    shared = hidden // llm["num_attention_heads"] * llm["num_key_value_heads"]
    found: dict[str, tuple[int, ...]] = {"token_embd": (vocab, hidden), "output_norm": (hidden,)}
    found["output"] = (vocab, hidden)
    for layer in range(llm["num_hidden_layers"]):
        found |= {
            f"blk.{layer}.{name}": shape
            for name, shape in {
                "attn_norm": (hidden,),
                "ffn_norm": (hidden,),
                "attn_q": (hidden, hidden),
                "attn_k": (shared, hidden),
                "attn_v": (shared, hidden),
                "attn_output": (hidden, hidden),
                "ffn_gate": (inner, hidden),
                "ffn_up": (inner, hidden),
                "ffn_down": (hidden, inner),
            }.items()
        }
    return found


def blocks(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return random Q4_0 rows, (outputs, bytes) uint8, of about unit gain."""
    rows, inputs = shape
    packed = rng.integers(0, 256, (rows, inputs // BLOCK_WEIGHTS, BLOCK_BYTES), dtype=np.uint8)
    scale = np.array([inputs**-0.5 / 4.6], dtype=np.float16)  # nibbles minus 8 spread by 4.6
    packed[:, :, :2] = scale.view(np.uint8)
    return packed.reshape(rows, -1)


def write(path: Path, llm: dict[str, int]) -> None:
    """Write the file."""
    import gguf

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(llm["max_position_embeddings"])
    writer.add_embedding_length(llm["hidden_size"])
    writer.add_block_count(llm["num_hidden_layers"])
    writer.add_feed_forward_length(llm["intermediate_size"])
    writer.add_head_count(llm["num_attention_heads"])
    writer.add_head_count_kv(llm["num_key_value_heads"])
    writer.add_rope_dimension_count(llm["hidden_size"] // llm["num_attention_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(llm["vocab_size"])
    for name, shape in shapes(llm).items():
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
        else:
            q4_0 = gguf.GGMLQuantizationType.Q4_0
            writer.add_tensor(f"{name}.weight", blocks(shape, rng), raw_dtype=q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Write the file and time the step."""
    args = report.parser(__doc__, "checkpoint", "work").parse_args()
    report.need("llama_cpp", "llama-cpp-python")
    report.need("gguf", "gguf")
    import llama_cpp

    llm = load_config(args.checkpoint).llm
    path = args.work / "q4_0.gguf"
    write(path, llm)
    context = PAST_TOKENS + args.runs + 2 * report.WARM_UP
    threads = {"n_threads": args.threads, "n_threads_batch": args.threads}
    model = llama_cpp.Llama(str(path), n_ctx=context, verbose=False, **threads)
    model.eval([5 + number for number in range(PAST_TOKENS)])

    def step() -> None:
        model.eval([5])
        llama_cpp.llama_synchronize(model.ctx)

    times = report.times_ms(step, args.runs)
    report.tell(**report.summary(times), bytes=path.stat().st_size, version=llama_cpp.__version__)


if __name__ == "__main__":
    main()
