"""Speech of espeak-ng: its voices, and texts spoken by them.

espeak-ng is a formant synthesiser and sounds unlike people. Mix its speech with recordings of people in training, and
evaluate on recordings of people only.
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
from bestow_edge.training.data.composition import LEVEL
from bestow_edge.training.data.corpora.words import Span, composed, word_times
from bestow_edge.training.synthesis.espeak import FORKS

LIBRARY = "espeak-ng"
ELSEWHERE = ("/opt/homebrew/lib/libespeak-ng.dylib", "/usr/local/lib/libespeak-ng.dylib")
"""Homebrew's paths, where Python does not search."""
SPEAKER = Path(__file__).with_name("espeak.py")
RATE_HZ = 16_000
BASES = {
    "en": ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc", "en-029"),
    "de": ("de",),
    "es": ("es", "es-419"),
    "fr": ("fr", "fr-be", "fr-ch"),
    "it": ("it",),
    "pt": ("pt", "pt-br"),
}
"""espeak-ng's accents of each language by file name. `en` is British; `en-gb` cannot be combined with a variant."""
TRAIN = (
    "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "klatt", "klatt2", "klatt3",
    "adam", "Alex", "Alicia", "Andrea", "Andy", "Annie", "antonio", "aunty", "belinda", "benjamin", "boris",
    "caleb", "david", "Denis", "Diogo", "ed", "edward", "Gene", "grandma", "grandpa", "Henrique", "Hugo", "john",
    "Lee", "linda", "marcelo", "Mario", "max", "Michael", "michel", "miguel", "Mike", "pablo", "paul", "pedro",
    "quincy", "rob", "robert", "shelby", "steph", "travis", "victor", "zac",
)  # fmt: skip
"""Intelligible variants of a voice. Whispers, croaks and robots are left out."""
TEST = ("Nguyen", "anika", "iven", "iven2", "klatt4", "sandro", "steph2")
"""Variants for tests. Training does not use them, nor does examples/accented_digits.py."""
Mark = tuple[int, int, int]
"""Position in the text, first sample and end of a word event."""


@dataclass(frozen=True, slots=True)
class Voice:
    """Voice, pace and pitch of a text."""

    name: str
    """Accent and variant in espeak-ng's form: `en-us+f2`."""
    words_per_minute: int
    pitch: int
    """0 to 99."""
    gap: int
    """Additional pause between words, 10 ms."""


def variants_of(voices: str) -> tuple[str, ...]:
    """Return the variants that `train`, `test` or a list of names (`m1,f2`) stands for.

    Raises:
        ConfigError: if a variant is unknown.
    """
    if voices in {"train", "test"}:
        return TRAIN if voices == "train" else TEST
    names = tuple(voices.split(","))
    if unknown := [name for name in names if name not in TRAIN + TEST]:
        raise ConfigError(
            f"voices: {unknown[0]!r} is unknown; expected train, test or some of {', '.join(TRAIN + TEST)}"
        )
    return names


def draw_voice(rng: np.random.Generator, language: str, variants: Sequence[str]) -> Voice:
    """Draw accent, variant, pace and pitch for a language of `BASES`."""
    bases = BASES[language]
    name = f"{bases[int(rng.integers(len(bases)))]}+{variants[int(rng.integers(len(variants)))]}"
    pace = int(np.clip(rng.normal(165, 25), 115, 230))
    return Voice(name, pace, int(rng.integers(20, 81)), int(rng.choice([0, 0, 0, 1, 2])))


@dataclass(frozen=True, slots=True)
class Speech:
    """The speech of a text."""

    samples: npt.NDArray[np.float32]
    """(samples,) at `RATE_HZ`, at the level of joined recordings."""
    word_times: list[Span]
    """Start and end of each word of `words.plain`."""


def espeak_library() -> str:
    """Return the name or path of espeak-ng's library, for the system's loader.

    Raises:
        ConfigError: if it is not installed.
    """
    found = find_library(LIBRARY) or find_library(f"lib{LIBRARY}")  # Windows wants the full name
    found = found or next((path for path in ELSEWHERE if Path(path).is_file()), None)
    if found is None:
        raise ConfigError(f"lib{LIBRARY} is not installed; run: apt install {LIBRARY} (macOS: brew install {LIBRARY})")
    return found


class Espeak:
    """Speaks texts one after the other in a child process. Earlier texts do not change later ones. For one thread."""

    def __init__(self, library: str) -> None:
        """Store the path of espeak-ng's library. The process starts with the first text."""
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

    def speak(self, text: str, voice: Voice) -> tuple[npt.NDArray[np.int16], int, list[Mark]]:
        """Speak a text. Return (samples,), their rate in Hz, and a mark for each word event.

        Raises:
            AudioError: if espeak-ng fails.
        """
        content = text.encode()
        request = f"{voice.name} {voice.words_per_minute} {voice.pitch} {voice.gap} {len(content)}\n"
        requests, answers = self._pipes()
        with suppress(BrokenPipeError):  # the process has ended: there is no answer
            requests.write(request.encode() + content)
            requests.flush()
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
        """Return the pipes for requests and answers. The process is started if it does not run."""
        if self._process is None:
            command = [sys.executable, "-I", "-S", str(SPEAKER), self.library]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._problems)  # noqa: S603 - a list, no shell
        return cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)

    def _problem(self, code: int) -> str:
        """Return the last line of the process's errors, and clear them."""
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
    """Speak a text, with silence of random length before and after. Its words are those of `words.plain`.

    Raises:
        AudioError: if espeak-ng fails or the speech is empty.
    """
    text = composed(text)
    spoken, rate_hz, marks = espeak.speak(text, voice)
    if not spoken.any() or not marks:
        raise AudioError(f"{LIBRARY}, voice {voice.name}: spoke nothing for {text!r:.60}")
    resampled = soxr.resample(spoken.astype(np.float32) / 32_768, rate_hz, RATE_HZ)
    levelled = resampled * (LEVEL / np.sqrt(np.mean(resampled**2, dtype=np.float64)))
    before, behind = (int(RATE_HZ * rng.uniform(*limits)) for limits in ((0.05, 0.35), (0.1, 0.4)))
    samples: npt.NDArray[np.float32] = np.pad(np.clip(levelled, -1, 1), (before, behind)).astype(np.float32)
    lead_s = before / RATE_HZ
    return Speech(
        samples,
        word_times(text, [(place, lead_s + first / rate_hz, lead_s + end / rate_hz) for place, first, end in marks]),
    )
