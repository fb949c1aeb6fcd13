"""Graph contracts: names, dtypes and axes of the graphs, written once. A model has three. Plain Python.

Export names its tensors from these specs, the runtime checks loaded graphs against them, tests and `inspect` print
them. Axes are words where they may change from call to call and numbers where the model fixes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from bestow_edge.core.config import SUBSAMPLING, ModelConfig

ENCODER = "encoder_chunk"
WINDOW = "encoder_window"
ADAPTER = "adapter_step"
LLM = "llm_step"
NEXT = "next_"  # prefix of a state's name on the way out
CACHE, NEW = "cache_", "new_"  # prefixes of a cache, bound in place, and of what is to be stored in it
MEMORY = "memory_"  # prefix of the speech memory
KINDS = ("keys", "values")  # of an attention's cache
Target = Literal["cpu", "cuda", "tensorrt"]
"""What graphs are made for. On a GPU what goes from graph to graph or from step to step is float16."""
FLOAT32_EVERYWHERE = ("mel", "logits", "log_prob", "alignment")  # what enters or leaves the device


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a graph."""

    name: str
    dtype: str
    """numpy name: `float32`, `float16` or `int64`."""
    axes: tuple[str | int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} ({', '.join(map(str, self.axes))})"


class DerivedAxis(NamedTuple):
    """An axis of outputs alone, whose size is that of an input's axis // `divisor` + `extra`."""

    name: str
    source: str
    divisor: int = 1
    extra: int = 0


STEPS = DerivedAxis("steps", "frames", divisor=SUBSAMPLING)
MEMORY_AND_NULL = DerivedAxis("memory_and_null", "memory", extra=1)


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """Ordered tensors of one graph. A state goes in under its name and comes out as `next_` + name."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[TensorSpec, ...] = ()
    derived: tuple[DerivedAxis, ...] = ()
    """Axes whose sizes follow from others, for a runtime that allocates outputs before a run."""

    @property
    def input_names(self) -> list[str]:
        """Names fed, states last."""
        return [tensor.name for tensor in self.fed]

    @property
    def output_names(self) -> list[str]:
        """Names returned, states last."""
        return [tensor.name for tensor in self.outputs] + [NEXT + tensor.name for tensor in self.states]

    @property
    def fed(self) -> tuple[TensorSpec, ...]:
        """Inputs and states."""
        return self.inputs + self.states

    @property
    def returned(self) -> tuple[TensorSpec, ...]:
        """Outputs and next states, under their names on the way out."""
        return *self.outputs, *(replace(tensor, name=NEXT + tensor.name) for tensor in self.states)

    def output_sizes(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return the sizes of all named axes from those of the inputs."""
        return {**sizes, **{axis.name: sizes[axis.source] // axis.divisor + axis.extra for axis in self.derived}}


def encoder_spec(config: ModelConfig) -> GraphSpec:
    """`encoder_chunk`: mel frames and caches -> cross-attention keys and values of the new steps, next caches.

    `frames` is a multiple of 8, at most one chunk of the largest look-ahead. The first chunk of a stream begins with
    `FIRST_FRAME` frames that don't exist and the last may end with some: [frame_start, frame_end) are the real ones.
    `past_steps` counts the steps encoded before. The attention caches are rings, bound in place: step a lies in slot
    a mod `cache_slots`. Keys and values of the new steps come out, and the runtime stores them; what a convolution
    needs of the past is small and comes out whole.
    """
    new = ("batch", config.encoder["num_attention_heads"], "steps", _encoder_head_dim(config))
    layers = range(config.encoder["num_hidden_layers"])
    return GraphSpec(
        name=ENCODER,
        inputs=(
            TensorSpec("mel", "float32", ("batch", "frames", config.features.num_mel_bins)),
            TensorSpec("frame_start", "int64", ("batch",)),
            TensorSpec("frame_end", "int64", ("batch",)),
            TensorSpec("past_steps", "int64", ("batch",)),
            *encoder_caches(config),
        ),
        outputs=(
            *_cross_attention(config),
            *(TensorSpec(f"{NEW}{kind}_{layer}", "float32", new) for layer in layers for kind in KINDS),
        ),
        states=encoder_states(config),
        derived=(STEPS,),
    )


def window_spec(config: ModelConfig) -> GraphSpec:
    """`encoder_window`: mel frames -> cross-attention keys and values of all their steps, by a bidirectional encoder.

    `frames` is a multiple of 8, of which the first `frame_end` are real; there is no other bound.
    """
    return GraphSpec(
        name=WINDOW,
        inputs=(
            TensorSpec("mel", "float32", ("batch", "frames", config.features.num_mel_bins)),
            TensorSpec("frame_end", "int64", ("batch",)),
        ),
        outputs=_cross_attention(config),
        derived=(STEPS,),
    )


def _cross_attention(config: ModelConfig) -> tuple[TensorSpec, TensorSpec]:
    """Return what both kinds of encoder give: the speech side of the adapter's cross-attentions."""
    layers = (config.adapter.num_layers, "batch", config.adapter.num_heads, "steps", config.adapter.head_dim)
    return TensorSpec("cross_keys", "float32", layers), TensorSpec("cross_values", "float32", layers)


def cache_slots(config: ModelConfig) -> int:
    """Return the slots of the encoder's rings: the left context, and twice the largest chunk.

    The steps a chunk attends to stay where they are while two more chunks are written, so that what was written by way
    of trial, as for a draft, may simply be forgotten.
    """
    return config.streaming.left_context + 2 * config.streaming.max_chunk_steps


def encoder_caches(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Rings of the streaming encoder's attention: keys and values of each layer."""
    axes = ("batch", config.encoder["num_attention_heads"], cache_slots(config), _encoder_head_dim(config))
    layers = range(config.encoder["num_hidden_layers"])
    return tuple(TensorSpec(f"{CACHE}{kind}_{layer}", "float32", axes) for layer in layers for kind in KINDS)


def encoder_states(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """What the streaming encoder's convolutions need of the past, one tensor each."""
    encoder = config.encoder
    hidden = encoder["hidden_size"]
    convolution = ("batch", hidden, encoder["conv_kernel_size"] - 1)
    states = []
    channels, bins = 1, config.features.num_mel_bins
    for stage in range(SUBSAMPLING.bit_length() - 1):
        states.append(TensorSpec(f"subsampling_cache_{stage}", "float32", ("batch", channels, 1, bins)))
        channels, bins = encoder["subsampling_conv_channels"], bins // 2 + 1
    layers = range(encoder["num_hidden_layers"])
    return (*states, *(TensorSpec(f"conv_cache_{layer}", "float32", convolution) for layer in layers))


def _encoder_head_dim(config: ModelConfig) -> int:
    return int(config.encoder["hidden_size"] // config.encoder["num_attention_heads"])


def adapter_spec(config: ModelConfig) -> GraphSpec:
    """`adapter_step`: tokens and the speech memory -> LLM input embeddings. Serves prompt prefill and single steps.

    The rows of a batch are texts about one stream: they share its memory, a ring of `memory` slots in which
    `written_steps` steps were ever written; `visible_steps` counts from the first of them. `alignment` is the
    cross-attention of each layer, mean over heads, the null frame last. Self-attention keys and values of the new
    tokens come out; the runtime stores them in its buffer behind `past_tokens`, so no cache is ever copied. With LSTM
    text layers the state is fixed in size; without a text mixer there is none.
    """
    adapter, hidden = config.adapter, config.llm["hidden_size"]
    memory = (adapter.num_heads, "memory", adapter.head_dim)
    inputs = [
        TensorSpec("token_ids", "int64", ("batch", "tokens")),
        TensorSpec("visible_steps", "int64", ("batch", "tokens")),
        TensorSpec("written_steps", "int64", (1,)),
        *(TensorSpec(f"{MEMORY}{name}", "float32", memory) for name in _by_layer(adapter.num_layers)),
    ]
    outputs = [
        TensorSpec("inputs_embeds", "float32", ("batch", "tokens", hidden)),
        TensorSpec("alignment", "float32", (adapter.num_layers, "batch", "tokens", "memory_and_null")),
    ]
    states: tuple[TensorSpec, ...] = ()
    if adapter.text_mixer == "lstm":
        state = (LSTM_LAYERS, "batch", adapter.width)
        states = (TensorSpec("lstm_hidden", "float32", state), TensorSpec("lstm_cell", "float32", state))
    elif adapter.text_mixer == "attention":
        cache = ("batch", adapter.num_heads, "capacity", adapter.head_dim)
        new = ("batch", adapter.num_heads, "tokens", adapter.head_dim)
        names = _by_layer(adapter.num_layers)
        inputs += [TensorSpec("past_tokens", "int64", ("batch",))]
        inputs += [TensorSpec(f"{CACHE}{name}", "float32", cache) for name in names]
        outputs += [TensorSpec(f"{NEW}{name}", "float32", new) for name in names]
    return GraphSpec(ADAPTER, tuple(inputs), tuple(outputs), states, derived=(MEMORY_AND_NULL,))


def _by_layer(num_layers: int) -> list[str]:
    """Return `keys_0`, `values_0`, `keys_1` and so on: tensors of their own, since a part of one would be copied."""
    return [f"{kind}_{layer}" for layer in range(num_layers) for kind in KINDS]


def llm_spec(llm: dict[str, Any]) -> GraphSpec:
    """`llm_step`: embeddings and KV caches -> what follows the last token, keys and values of the new tokens.

    `token_id` is the most probable token and `log_prob` its natural logarithm: of most steps a session needs nothing
    more, and `logits` are large. As in `adapter_step`, the first `past_tokens` slots of a cache buffer count and the
    new keys and values come out.
    `llm` is the LLM's transformers config.
    """
    heads = llm.get("num_key_value_heads") or llm["num_attention_heads"]
    head_dim = llm.get("head_dim") or llm["hidden_size"] // llm["num_attention_heads"]
    inputs = [
        TensorSpec("inputs_embeds", "float32", ("batch", "tokens", llm["hidden_size"])),
        TensorSpec("past_tokens", "int64", ("batch",)),
    ]
    outputs = [
        TensorSpec("logits", "float32", ("batch", llm["vocab_size"])),
        TensorSpec("token_id", "int64", ("batch",)),
        TensorSpec("log_prob", "float32", ("batch",)),
    ]
    for layer in range(llm["num_hidden_layers"]):
        for kind in KINDS:
            inputs.append(TensorSpec(f"{CACHE}{kind}_{layer}", "float32", ("batch", heads, "capacity", head_dim)))
            outputs.append(TensorSpec(f"{NEW}{kind}_{layer}", "float32", ("batch", heads, "tokens", head_dim)))
    return GraphSpec(name=LLM, inputs=tuple(inputs), outputs=tuple(outputs))


def graph_specs(config: ModelConfig, target: Target = "cpu") -> dict[str, GraphSpec]:
    """Return the three specs by graph name: encoder, adapter, LLM."""
    encoder = encoder_spec(config) if config.bidirectional is None else window_spec(config)
    specs = (encoder, adapter_spec(config), llm_spec(config.llm))
    return {spec.name: spec if target == "cpu" else in_float16(spec) for spec in specs}


def in_float16(spec: GraphSpec) -> GraphSpec:
    """Return a contract with float16 in place of float32 but for `FLOAT32_EVERYWHERE`."""

    def half(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            replace(tensor, dtype="float16")
            if tensor.dtype == "float32" and tensor.name not in FLOAT32_EVERYWHERE
            else tensor
            for tensor in tensors
        )

    return replace(spec, inputs=half(spec.inputs), outputs=half(spec.outputs), states=half(spec.states))


LSTM_LAYERS = 2  # paper, Table 4: "two RNN layers + one cross-attention"
FIRST_FRAME = SUBSAMPLING - 1  # frames that pad the first chunk: its first step hears one real frame only
