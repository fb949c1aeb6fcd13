"""Optimisation profiles: which sizes an engine is built for, and which profile serves which."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bestow_edge.core.bundle import BundleManifest, read_manifest
from bestow_edge.core.config import ModelConfig
from bestow_edge.core.errors import EngineError
from bestow_edge.core.specs.chunked import GRAPH as ENCODER
from bestow_edge.core.specs.cross_adapter import GRAPH as ADAPTER
from bestow_edge.core.specs.llm import GRAPH as LLM
from bestow_edge.core.specs.windowed import GRAPH as WINDOW
from bestow_edge.core.specs.windowed import windowed
from bestow_edge.runtime import embedded_bundle
from bestow_edge.runtime.devices.bindings import sizes_of
from bestow_edge.runtime.devices.tensorrt.profiles import Bounds, choose, digest, profiles

Configs = Callable[..., ModelConfig]


def made_for(config: ModelConfig) -> BundleManifest:
    """Return a manifest of a model, as far as profiles ask."""
    prompts = dict.fromkeys(config.pairs, (5,))
    fields: dict[str, Any] = {"model": config, "target": "tensorrt", "max_text_tokens": 200, "prompts": prompts}
    return replace(read_manifest(embedded_bundle("demo")), **fields, end_ids=(2,))


def test_the_encoder_has_one_for_each_chunk_size(model_config: Configs) -> None:
    manifest = made_for(model_config())
    known = profiles(manifest.specs[ENCODER], manifest, Bounds())
    assert [profile.name for profile in known] == ["frames_8", "frames_16", "frames_56", "frames_112"]
    mel = manifest.specs[ENCODER].inputs[0]
    assert known[0].shapes(mel) == ((1, 8, 80), (1, 8, 80), (1, 8, 80))
    assert known[3].shapes(mel) == ((1, 64, 80), (1, 112, 80), (1, 112, 80))
    for frames in range(8, 113, 8):  # whole chunks, and what is left at the end of the audio
        sizes = {"batch": 1, "frames": frames}
        assert sum(profile.holds(sizes) for profile in known) == 1
    assert choose(known, {"batch": 1, "frames": 56}, ENCODER) == 2


def test_adapter_and_llm_have_one_for_a_token_and_one_for_a_prompt(model_config: Configs) -> None:
    manifest = made_for(model_config())
    for name in (ADAPTER, LLM):
        known = profiles(manifest.specs[name], manifest, Bounds(rows=2, prompt_tokens=50))
        assert [profile.name for profile in known] == ["token", "prompt"]
        axes = known[1].axes
        assert (axes["tokens"].least, axes["tokens"].most) == (2, 50)
        assert axes["capacity"].most == 64, "as much as a prompt needs"
        assert known[0].axes["capacity"].most == 256, "200 tokens, in buffers that double"
        assert axes["batch"].most == 2
        assert ("memory" in axes) == (name == ADAPTER)
        sizes = {"batch": 1, "tokens": 1, "capacity": 64} | ({"memory": 4096} if name == ADAPTER else {})
        assert choose(known, sizes, name) == 0
        assert choose(known, sizes | {"tokens": 7}, name) == 1
    cache = next(tensor for tensor in manifest.specs[LLM].inputs if tensor.name == "cache_keys_0")
    assert known[0].shapes(cache) == ((1, 2, 1, 12), (1, 2, 256, 12), (2, 2, 256, 12))


def test_recurrent_layers_take_prompts_token_by_token(model_config: Configs) -> None:
    manifest = made_for(model_config(text_mixer="lstm", num_layers=1))
    (known,) = profiles(manifest.specs[ADAPTER], manifest, Bounds())
    assert known.name == "token"
    assert "capacity" not in known.axes


def test_a_bidirectional_encoder_has_its_window(bidirectional_config: Configs) -> None:
    config = bidirectional_config()
    manifest = made_for(config)
    (known,) = profiles(manifest.specs[WINDOW], manifest, Bounds())
    assert known.axes["frames"].most == 8 * windowed(config).window


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"tokens": 300},
            "tokens 300, its engine was built for 1 to 128; bestow-edge engines build --prompt-tokens 300, and",
        ),
        ({"batch": 9}, "batch 9, its engine was built for 1 to 5; bestow-edge engines build --rows 9, and"),
        ({"capacity": 512}, "capacity 512, its engine was built for 1 to 256; export and build again"),
    ],
)
def test_sizes_that_no_engine_was_built_for(model_config: Configs, sizes: dict[str, int], message: str) -> None:
    manifest = made_for(model_config())
    known = profiles(manifest.specs[LLM], manifest, Bounds())
    with pytest.raises(EngineError, match=message):
        choose(known, {"batch": 1, "tokens": 1, "capacity": 64} | sizes, LLM)


def test_inputs_that_disagree_about_an_axis(model_config: Configs) -> None:
    spec = made_for(model_config()).specs[LLM]
    shapes = {
        tensor.name: tuple(7 if isinstance(axis, str) else axis for axis in tensor.axes) for tensor in spec.inputs
    }
    assert sizes_of(spec, shapes) == {"batch": 7, "tokens": 7, "capacity": 7}
    with pytest.raises(ValueError, match=r"cache_values_1: float16 .* got \(7, 2, 8, 12\)"):
        sizes_of(spec, shapes | {"cache_values_1": (7, 2, 8, 12)})


@pytest.mark.parametrize("bounds", [Bounds(rows=0), Bounds(prompt_tokens=1)])
def test_bounds_out_of_range(model_config: Configs, bounds: Bounds) -> None:
    manifest = made_for(model_config())
    with pytest.raises(EngineError, match="expected at least 1 and 2"):
        profiles(manifest.specs[LLM], manifest, bounds)


def test_the_hash_follows_every_size(model_config: Configs) -> None:
    manifest = made_for(model_config())
    hashes = {digest(profiles(manifest.specs[LLM], manifest, Bounds(rows=rows))) for rows in (1, 2, 2)}
    assert len(hashes) == 2
