"""Every name of TensorRT that the code uses is in TensorRT 10.16 and 11.4, and in TensorRT for RTX 1.7."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_tensorrt import RTX, VERSIONS, fake_tensorrt, surface

SOURCES = sorted((Path(__file__).parents[4] / "runtime" / "devices" / "tensorrt").glob("*.py"))
MODULE = "trt"  # what the code calls the module
CLASSES = {  # what it calls objects of its classes
    "builder": "Builder",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "runtime_config": "IRuntimeConfig",
    "kernels": "IRuntimeCache",
}
RTX_ALONE = "rtx.py"  # its names are in TensorRT for RTX alone
OWN = {
    "library.py": {"profile"},
    "profiles.py": {"profile", "config"},
    "engine_graph.py": {"kernels"},
}  # names that mean something else there
GONE = {  # in 10 and not in 11
    "IBuilderConfig": {"int8_calibrator", "set_calibration_profile", "quantization_flags", "algorithm_selector"},
    "ICudaEngine": {"create_execution_context_without_device_memory", "device_memory_size", "weight_streaming_budget"},
    "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH"},
    "BuilderFlag": {"FP16", "BF16", "INT8", "FP8", "INT4"},
    "OnnxParser": {"supports_model", "parse_with_weight_descriptors"},
    "Builder": {"platform_has_fast_fp16", "platform_has_fast_int8"},
}


def uses(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the names a file uses, as (class,) and (class, name)."""
    chains = [_chain(node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    own = OWN.get(path.name, set())
    for chain in chains:
        if len(chain) > 1 and chain[0] == MODULE and chain[1] != "__version__":
            yield chain[1:3]
        elif len(chain) > 1 and chain[0] in CLASSES and chain[0] not in own:
            yield CLASSES[chain[0]], chain[1]


def _chain(node: ast.AST) -> tuple[str, ...]:
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ()
    chain = [node.id, *reversed(names)]
    return tuple(name if name.startswith("__") else name.lstrip("_") for name in chain[chain[0] == "self" :])


@pytest.mark.parametrize("version", [*VERSIONS, RTX])
def test_every_name_is_there(version: str) -> None:
    known = surface(version)
    used = {use for path in SOURCES if version == RTX or path.name != RTX_ALONE for use in uses(path)}
    assert len(used) > 40
    for use in used:
        assert use[0] in known, f"{version} has no {use[0]}"
        if len(use) > 1 and not use[1].startswith("__"):
            members = known[use[0]].get("members", []) + known[use[0]].get("enum", [])
            assert use[1] in members, f"{version}: {use[0]} has no {use[1]}"


def test_what_rtx_alone_has_is_in_one_file() -> None:
    (path,) = (path for path in SOURCES if path.name == RTX_ALONE)
    used, known = set(uses(path)), surface(VERSIONS[1])
    assert ("trt", "ComputeCapability")[1:] in {use[:1] for use in used}
    assert {use[0] for use in used} - set(known) == {
        "ComputeCapability", "CudaGraphStrategy", "EngineInvalidityDiagnostics", "EngineValidity", "IRuntimeCache",
        "IRuntimeConfig",
    }  # fmt: skip


def test_both_majors_are_held_against() -> None:
    assert [version.split(".")[0] for version in VERSIONS] == ["10", "11"]


@pytest.mark.parametrize("name", GONE)
def test_the_fakes_differ_as_the_versions_do(name: str) -> None:
    ten, eleven = (set(surface(version)[name].get("members") or surface(version)[name]["enum"]) for version in VERSIONS)
    assert GONE[name] <= ten
    assert not GONE[name] & eleven
    if "enum" in surface(VERSIONS[0])[name]:
        kinds = [getattr(fake_tensorrt(version), name) for version in VERSIONS]
        assert [hasattr(kind, min(GONE[name])) for kind in kinds] == [True, False]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_name_outside_the_version_is_refused(version: str) -> None:
    trt = fake_tensorrt(version)
    config = trt.Builder(trt.Logger()).create_builder_config()
    with pytest.raises(AttributeError, match=f"tensorrt.IBuilderConfig {version} has no max_workspace_size"):
        config.max_workspace_size = 1
    with pytest.raises(AttributeError, match="has no max_batch_size"):
        trt.Builder(trt.Logger()).max_batch_size  # noqa: B018 - reading it is the test
    assert not hasattr(trt, "volume")
