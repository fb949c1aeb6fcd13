"""`--latency` of several commands: what it excludes, what was chosen for it, and whether the machine keeps up.

It knows choices and calibrations as values; the commands load the model and open the session.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from bestow_edge.cli.show.console import err, say, say_warning

if TYPE_CHECKING:
    from bestow_edge.core.delay import Choice
    from bestow_edge.core.prompts import AboutSpeech
    from bestow_edge.runtime import Model
    from bestow_edge.runtime.calibration import Calibration

MIC_CALIBRATION_S = 2.0


def latency_target(latency: str | None, *others: int | None) -> float | None:
    """Return the seconds asked for, None if none were.

    Args:
        latency: what `--latency` was given.
        others: what `--k`, `--l` and `--lookahead` were given.

    Raises:
        BadParameter: one of the others was given too.
        ConfigError: it is not a number of seconds or milliseconds.
    """
    if latency is None:
        return None
    if any(other is not None for other in others):
        raise typer.BadParameter("--latency chooses K, L and look-ahead; leave out --k, --l and --lookahead")
    from bestow_edge.core.delay import parse_latency

    return parse_latency(latency)


def choose_for(target_s: float, model: Model, asked: Sequence[AboutSpeech], *, calibrated: bool) -> Choice:
    """Choose for a latency and say on stderr what was chosen and, if calibrated, what the machine makes of it.

    Raises:
        ConfigError: the latency is shorter than the shortest possible.
    """
    from bestow_edge.core.delay import solve

    choice = solve(target_s, model.config)
    calibration = _calibrate(model, asked, choice) if calibrated else None
    say(chosen(target_s, choice, calibration))
    if calibration is not None and not calibration.keeps_up:
        say_warning(too_slow(calibration, longer_helps=choice.lookahead < max(model.config.encoder.right_contexts)))
    return choice


def chosen(target_s: float, choice: Choice, calibration: Calibration | None) -> str:
    """Return the line that tells what was chosen."""
    extra = "" if calibration is None else f", this machine adds {calibration.extra_s:.2f} s"
    return f"latency {target_s:g} s: {choice}{extra}"


def too_slow(calibration: Calibration, *, longer_helps: bool) -> str:
    """Return the warning of a machine that does not keep up.

    Args:
        calibration: what was measured.
        longer_helps: whether a longer latency would bring a larger look-ahead.
    """
    remedies = ["a longer --latency (larger chunks cost less)"] * longer_helps
    remedies += ["another number of --threads", "an int8 bundle or a smaller model"]
    return (
        f"this machine does not keep up: computing takes {calibration.rtf:.2f} s for each second of audio, "
        f"{calibration.p95_rtf:.2f} s in slow chunks; text will come later and later. Try {', '.join(remedies)}"
    )


def _calibrate(model: Model, asked: Sequence[AboutSpeech], choice: Choice) -> Calibration:
    from bestow_edge.runtime.calibration import calibrate

    with err.status("measuring how fast this machine is"):
        return calibrate(model, asked, choice, MIC_CALIBRATION_S)
