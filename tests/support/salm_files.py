"""Tiny SALMs whose connectors read several layers; `tests/fixtures/salm/README.md` says how they were made."""

from pathlib import Path
from shutil import copytree

from safetensors.torch import load_file, save_file
from torch.nn.functional import pad

SALMS = Path(__file__).parents[1] / "fixtures" / "salm"
NEURONS = 3072  # of a feed-forward layer of NeMo's Q-Former


def make_qformer(folder: Path) -> Path:
    """Make a folder with the SALM of a Q-Former, and return the SALM's.

    The fixture leaves out neurons of the feed-forward layers whose weights are zero; they are filled up here.
    """
    copytree(SALMS / "taps-llm", folder / "taps-llm")
    salm = copytree(SALMS / "qformer", folder / "qformer")
    weights = load_file(salm / "model.safetensors")
    for name, tensor in weights.items():
        if name.endswith("intermediate.dense.weight"):
            weights[name] = pad(tensor, (0, 0, 0, NEURONS - len(tensor)))
        elif name.endswith("intermediate.dense.bias"):
            weights[name] = pad(tensor, (0, NEURONS - len(tensor)))
        elif name.endswith(".output.dense.weight") and "attention" not in name:
            weights[name] = pad(tensor, (0, NEURONS - tensor.shape[1]))
    save_file(weights, salm / "model.safetensors")
    return salm
