"""Speech made by espeak-ng: its voices, and one text spoken by one of them. Knows no files and no manifests.

It is formant synthesis, far from a person: what is trained on it is to be mixed with real speech and judged on it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt
import soxr

from bestow_edge.core.errors import AudioError, ConfigError
from bestow_edge.training.data.corpora.words import Span, composed, word_times
from bestow_edge.training.synthesis.espeak import FORKS

LIBRARY = "espeak-ng"
ELSEWHERE = ("/opt/homebrew/lib/libespeak-ng.dylib", "/usr/local/lib/libespeak-ng.dylib")
"""Homebrew's; Python does not look there."""
SPEAKER = Path(__file__).with_name("espeak.py")
RATE_HZ = 16_000
SPEECH_RMS = 0.08  # full scale = 1, as recordings that are joined
BASES = {
    "en": ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc", "en-029"),
    "de": ("de",),
    "es": ("es", "es-419"),
    "fr": ("fr", "fr-be", "fr-ch"),
    "it": ("it",),
    "pt": ("pt", "pt-br"),
}
"""espeak-ng's accents of each language, by the names of their files: `en` is British, and `en-gb` takes no variant."""
TRAIN = (
    "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "klatt", "klatt2", "klatt3",
    "adam", "Alex", "Alicia", "Andrea", "Andy", "Annie", "antonio", "aunty", "belinda", "benjamin", "boris",
    "caleb", "david", "Denis", "Diogo", "ed", "edward", "Gene", "grandma", "grandpa", "Henrique", "Hugo", "john",
    "Lee", "linda", "marcelo", "Mario", "max", "Michael", "michel", "miguel", "Mike", "pablo", "paul", "pedro",
    "quincy", "rob", "robert", "shelby", "steph", "travis", "victor", "zac",
)  # fmt: skip
"""Variants of a voice that stay intelligible: whispers, croaks and robots are left out."""
TEST = ("Nguyen", "anika", "iven", "iven2", "klatt4", "sandro", "steph2")
"""Variants that nothing is trained on; examples/accented_digits.py has none of them either."""
Mark = tuple[int, int, int]
"""Of a word event: its place in the text, first sample and end."""


@dataclass(frozen=True, slots=True)
class Voice:
    """One way to speak."""

    name: str
    """Accent and variant, as espeak-ng wants them: `en-us+f2`."""
    words_per_minute: int
    pitch: int
    """0 to 99."""
    gap: int
    """Pause between words beside the usual one, 10 ms."""


def variants_of(voices: str) -> tuple[str, ...]:
    """Return the variants that `train`, `test` or a list of names (`m1,f2`) stands for.

    Raises:
        ConfigError: a name is none of a variant.
    """
    if voices in {"train", "test"}:
        return TRAIN if voices == "train" else TEST
    names = tuple(voices.split(","))
    if unknown := [name for name in names if name not in TRAIN + TEST]:
        raise ConfigError(f"voices: {unknown[0]!r} is none; expected train, test or some of {', '.join(TRAIN + TEST)}")
    return names


def draw_voice(rng: np.random.Generator, language: str, variants: Sequence[str]) -> Voice:
    """Draw accent, variant, pace and pitch.

    Args:
        rng: decides everything.
        language: one of `BASES`.
        variants: what to draw from.
    """
    bases = BASES[language]
    name = f"{bases[int(rng.integers(len(bases)))]}+{variants[int(rng.integers(len(variants)))]}"
    pace = int(np.clip(rng.normal(165, 25), 115, 230))
    return Voice(name, pace, int(rng.integers(20, 81)), int(rng.choice([0, 0, 0, 1, 2])))


@dataclass(frozen=True, slots=True)
class Speech:
    """A text as it was spoken."""

    samples: npt.NDArray[np.float32]
    """(samples,) at `RATE_HZ`, of the loudness that joined recordings have."""
    word_times: list[Span]
    """Of each word of `words.plain`."""


def espeak_library() -> str:
    """Return the library of espeak-ng, as the system's loader wants it.

    Raises:
        ConfigError: it is not there.
    """
    found = find_library(LIBRARY) or find_library(f"lib{LIBRARY}")  # Windows has it by its whole name
    found = found or next((path for path in ELSEWHERE if Path(path).is_file()), None)
    if found is None:
        raise ConfigError(f"lib{LIBRARY} is not there; run: apt install {LIBRARY} (macOS: brew install {LIBRARY})")
    return found


class Espeak:
    """Speaks texts one after the other, each as if it were the first: a process that is kept, for one thread."""

    def __init__(self, library: str) -> None:
        """Remember the library; the process starts with the first text.

        Args:
            library: of espeak-ng.
        """
        self.library = library
        self._process: subprocess.Popen[bytes] | None = None
        self._problems = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process

    def __enter__(self) -> Espeak:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._end()
        self._problems.close()

    def say(self, text: str, voice: Voice) -> tuple[npt.NDArray[np.int16], int, list[Mark]]:
        """Have espeak-ng say a text.

        Returns:
            (samples,), their rate in Hz, and of each word event its place in the text, first sample and end.

        Raises:
            AudioError: it fails.
        """
        content = text.encode()
        request = f"{voice.name} {voice.words_per_minute} {voice.pitch} {voice.gap} {len(content)}\n"
        asked, answers = self._pipes()
        with suppress(BrokenPipeError):  # it has ended: there is no answer
            asked.write(request.encode() + content)
            asked.flush()
        head = answers.readline().split()
        rate_hz, words, size = map(int, head) if len(head) == 3 else (0, 0, 0)
        marks = [answers.readline().split() for _ in range(words)]
        sound = answers.read(size)
        if not head or len(sound) < size:
            raise AudioError(f"{LIBRARY}, voice {voice.name}: {self._problem(self._end())}")
        if not FORKS:
            self._end()
        return np.frombuffer(sound, dtype=np.int16), rate_hz, [(int(a), int(b), int(c)) for a, b, c in marks]

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        """Return where to ask and where answers come from, of the process that runs or of a new one."""
        if self._process is None:
            command = [sys.executable, "-I", "-S", str(SPEAKER), self.library]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._problems)  # noqa: S603 - a list, no shell
        return cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)

    def _problem(self, code: int) -> str:
        """Return the last that the process said before it ended, and forget it."""
        self._problems.seek(0)
        lines = self._problems.read().decode(errors="replace").strip().splitlines()
        self._problems.seek(0)
        self._problems.truncate()
        return lines[-1] if lines else f"exit code {code}"

    def _end(self) -> int:
        """End the process and return its exit code."""
        if self._process is None:
            return 0
        with self._process as process:
            self._process = None
            with suppress(BrokenPipeError):
                process.communicate()
        return process.returncode


def speak(text: str, voice: Voice, rng: np.random.Generator, espeak: Espeak) -> Speech:
    """Speak a text, with silence of random length before and behind.

    Args:
        text: what to say; words by `words.plain`.
        voice: how.
        rng: decides the silence.
        espeak: says it.

    Raises:
        AudioError: espeak-ng fails or says nothing.
    """
    text = composed(text)
    spoken, rate_hz, marks = espeak.say(text, voice)
    if not spoken.any() or not marks:
        raise AudioError(f"{LIBRARY}, voice {voice.name}: said nothing for {text!r:.60}")
    resampled = soxr.resample(spoken.astype(np.float32) / 32_768, rate_hz, RATE_HZ)
    levelled = resampled * (SPEECH_RMS / np.sqrt(np.mean(resampled**2, dtype=np.float64)))
    before, behind = (int(RATE_HZ * rng.uniform(*limits)) for limits in ((0.05, 0.35), (0.1, 0.4)))
    samples: npt.NDArray[np.float32] = np.pad(np.clip(levelled, -1, 1), (before, behind)).astype(np.float32)
    lead_s = before / RATE_HZ
    return Speech(
        samples,
        word_times(text, [(place, lead_s + first / rate_hz, lead_s + end / rate_hz) for place, first, end in marks]),
    )
