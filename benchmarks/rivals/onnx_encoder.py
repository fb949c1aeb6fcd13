"""Times a chunk of 1.12 s of a cache-aware encoder that NeMo exported, in plain onnxruntime.

    python benchmarks/rivals/onnx_encoder.py ENCODER.onnx [--threads 1]

What it is fed follows from the graph's inputs; the chunk is 112 frames behind the 9 that NeMo's sub-sampling hears
again, or as many as the graph fixes. Prints one JSON line.
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import report

CHUNK_FRAMES, FRAMES_AGAIN = 112, 9
FULL_CACHE = 70  # steps
KERNEL = 9  # of the convolutions, whose cache is one shorter


def feed(name: str, shape: list[int | str], rng: np.random.Generator, frames: int) -> np.ndarray:
    """Return an input: batch 1, full caches."""
    if name in ("length", "cache_last_channel_len"):
        return np.array([frames if name == "length" else FULL_CACHE], dtype=np.int64)
    free = {0: 1, 2: frames if name == "audio_signal" else FULL_CACHE, 3: KERNEL - 1}
    sizes = [size if isinstance(size, int) else free[axis] for axis, size in enumerate(shape)]
    return rng.standard_normal(sizes).astype(np.float32)


def main() -> None:
    """Time the chunk."""
    args = report.parser(__doc__, "encoder").parse_args()
    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.log_severity_level = 3
    session = ort.InferenceSession(str(args.encoder), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    inputs = {item.name: item.shape for item in session.get_inputs()}
    fixed = inputs["audio_signal"][2]
    frames = fixed if isinstance(fixed, int) else CHUNK_FRAMES + FRAMES_AGAIN
    feeds = {name: feed(name, shape, rng, frames) for name, shape in inputs.items()}
    (steps,) = {session.run(["outputs"], feeds)[0].shape[2]}
    times = report.times_ms(lambda: session.run(None, feeds), args.runs)
    report.tell(**report.summary(times), frames=frames, steps=steps, version=ort.__version__)


if __name__ == "__main__":
    main()
