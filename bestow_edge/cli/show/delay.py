"""Output for `--latency`: the chosen settings, and a warning if this machine does not keep up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bestow_edge.cli.show.console import err, say, say_warning
from bestow_edge.core.delay import parse_latency

if TYPE_CHECKING:
    from bestow_edge.core.delay import Choice
    from bestow_edge.core.prompts import AboutSpeech
    from bestow_edge.core.request import Request
    from bestow_edge.runtime import Model
    from bestow_edge.runtime.calibration import Calibration

    Calibrate = Callable[[Model, Sequence[AboutSpeech], Choice, float], Calibration]

MIC_CALIBRATION_S = 2.0


def announce(request: Request, model: Model, calibrate: Calibrate | None = None) -> None:
    """Show on stderr the choice for a latency, and warn if this machine does not keep up; do nothing without one.

    Args:
        request: the request.
        model: the loaded bundle.
        calibrate: measures the computing time of the choice on this machine; None = no measurement.

    Raises:
        ConfigError: the latency is shorter than the shortest possible.
    """
    choice = request.choose(model.config)
    if request.latency is None or choice is None:
        return
    chosen = f"latency {parse_latency(request.latency):g} s: {choice}"
    if calibrate is None:
        say(chosen)
        return
    with err.status("measuring the speed of this machine"):
        calibration = calibrate(model, request.asked(model.config), choice, MIC_CALIBRATION_S)
    say(f"{chosen}, this machine adds {calibration.extra_s:.2f} s")
    if not calibration.keeps_up:
        longer_helps = choice.lookahead < max(model.config.encoder.right_contexts)
        say_warning(too_slow(calibration, longer_helps=longer_helps))


def too_slow(calibration: Calibration, *, longer_helps: bool) -> str:
    """Return the warning that this machine does not keep up.

    Args:
        calibration: the measurement.
        longer_helps: whether a longer latency allows a larger look-ahead.
    """
    remedies = ["a longer --latency (larger chunks cost less)"] * longer_helps
    remedies += ["another number of --threads", "an int8 bundle or a smaller model"]
    return (
        f"this machine does not keep up: computing takes {calibration.rtf:.2f} s for each second of audio, "
        f"{calibration.p95_rtf:.2f} s in slow chunks; text will come later and later. Try {', '.join(remedies)}"
    )
