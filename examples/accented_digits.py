"""Speaks the ten English digits in forty accents, because the people in the corpora have few.

    python examples/accented_digits.py DATA        (needs espeak-ng on the path: apt install espeak-ng)

English voices speak English; voices of other languages speak the digits as their own spelling writes them, with their
own sounds ("θρι" in Greek, "थ्री" in Hindi, "tri" in Italian). Writes DATA/synthetic/digits/{train.jsonl, audio/*.flac}
at 16 kHz, the same on every machine with the same espeak-ng; examples/digits.yaml trains on them. Takes about a minute.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import typer
from rich.progress import track

RATE_HZ = 16_000
TAKES = 8  # of each word in each accent
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
GERMAN = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
# espeak-ng drops the variant behind the names "en-gb" and "fr-fr": they are "en" and "fr" here
ENGLISH = ["en-us"] * 2 + ["en"] * 2 + [f"en-gb-{name}" for name in ("x-rp", "scotland", "x-gbclan", "x-gbcwmd")]
ENGLISH += ["en-us-nyc", "en-029"]
SPELLED = {
    "bn": "জিরো ওয়ান টু থ্রি ফোর ফাইভ সিক্স সেভেন এইট নাইন",
    "ca": "ziro uan tu tri for faiv sics seven eit nain",
    "cs": "zirou van tú srí fór fajv siks sevn ejt najn",
    "cy": "siro wan tw thri ffôr ffaif sics sefen eit nain",
    "da": "siro wan tu sri for fajv siks seven ejt najn",
    "de": "siro uann tu sri foar faif ßiks ßeven äit nain",
    "el": "ζίρο ουάν του θρι φορ φάιβ σιξ σέβεν έιτ νάιν",
    "es": "siro uan tu zri for faif sics seven eit nain",
    "es-419": "siro uan tu tri for faiv sics seven eit nain",
    "et": "siirou van tuu trii foor faiv siks seven eit nain",
    "fi": "siirou uan tuu srii foor faiv siks seven eit nain",
    "fr": "ziro ouane tou sri for faïve sixe sévène éïte naïne",
    "hi": "ज़ीरो वन टू थ्री फ़ोर फ़ाइव सिक्स सेवन एट नाइन",
    "hr": "ziro van tu tri for fajv siks seven ejt najn",
    "hu": "zíró ván tú szrí fór fájv sziksz szeven éjt nájn",
    "id": "ziro wan tu tri for faiv siks seven eit nain",
    "is": "síró úan tú þrí for fæv six seven eit næn",
    "it": "ziro uan tu tri for faiv sics seven eit nain",
    "ja": "ゼロ ワン ツー スリー フォー ファイブ シックス セブン エイト ナイン",
    "ko": "지로 원 투 쓰리 포 파이브 식스 세븐 에이트 나인",
    "lt": "zyro van tu tri for faiv siks seven eit nain",
    "mr": "झिरो वन टू थ्री फोर फाइव सिक्स सेवन एट नाइन",
    "nl": "ziero wan toe srie foor faaiv siks seven eet naain",
    "nb": "siro vann to tri for faiv siks seven eit nain",
    "pa": "ਜ਼ੀਰੋ ਵਨ ਟੂ ਥ੍ਰੀ ਫ਼ੋਰ ਫ਼ਾਈਵ ਸਿਕਸ ਸੈਵਨ ਏਟ ਨਾਈਨ",
    "pl": "ziro łan tu tri for fajw siks sewen ejt najn",
    "pt": "zirou uan tu tri for faive sics sévene eite naine",
    "pt-br": "zirou uan tu tri fór faiv sics séven eit nain",
    "ro": "ziro uan tu tri for faiv sics seven eit nain",
    "ru": "зиро уан ту три фор файв сикс сэвэн эйт найн",
    "sk": "zirou van tú trí fór fajv siks sevn ejt najn",
    "sq": "ziro uan tu thri for fajv siks seven ejt najn",
    "sr": "ziro van tu tri for fajv siks seven ejt najn",
    "sv": "siro uann to tri for fajv siks seven ejt najn",
    "sw": "ziro wan tu thri fo faiv siks seven eit nain",
    "ta": "ஜீரோ ஒன் டூ த்ரீ ஃபோர் ஃபைவ் சிக்ஸ் செவன் எய்ட் நைன்",
    "te": "జీరో వన్ టూ త్రీ ఫోర్ ఫైవ్ సిక్స్ సెవెన్ ఎయిట్ నైన్",
    "tr": "ziro van tu tri for fayv siks sevın eyt nayn",  # noqa: RUF001 - Turkish
    "uk": "зіро уан ту трі фор файв сікс севен ейт найн",
}
VARIANTS = [*(f"m{n}" for n in range(1, 9)), *(f"f{n}" for n in range(1, 6)), "klatt", "klatt2", "klatt3"]
VARIANTS += [
    "adam",
    "Alex",
    "Alicia",
    "Andrea",
    "Andy",
    "Annie",
    "antonio",
    "aunty",
    "belinda",
    "benjamin",
    "boris",
    "caleb",
    "david",
    "Denis",
    "Diogo",
    "ed",
    "edward",
    "Gene",
    "grandma",
    "grandpa",
    "Henrique",
    "Hugo",
    "john",
    "Lee",
    "linda",
    "marcelo",
    "Mario",
    "max",
    "Michael",
    "michel",
    "miguel",
    "mike",
    "pablo",
    "paul",
    "pedro",
    "quincy",
    "rob",
    "robert",
    "shelby",
    "steph",
    "travis",
    "victor",
    "zac",
]


def speak(word: str, voice: str, rng: random.Random) -> npt.NDArray[np.float32]:
    """Return (samples,) at 16 kHz of one word in one voice, at a random pace, pitch and range."""
    options = ["-s", str(rng.randint(115, 250)), "-p", str(rng.randint(10, 85)), "--stdout"]
    wav = subprocess.run(["espeak-ng", "-v", voice, *options, "--", word], capture_output=True, check=True).stdout  # noqa: S603, S607
    rate_hz = int.from_bytes(wav[24:28], "little")
    samples = np.frombuffer(wav[44 : len(wav) // 2 * 2], "<i2").astype(np.float32) / 32_768
    return np.asarray(soxr.resample(samples, rate_hz, RATE_HZ), dtype=np.float32)


def lines(folder: Path) -> list[dict[str, object]]:
    """Speak everything into `folder/audio` and return the manifest's entries."""
    accents = [(voice, DIGITS) for voice in ENGLISH] + [(voice, words.split()) for voice, words in SPELLED.items()]
    entries: list[dict[str, object]] = []
    for index, (accent, spelled) in enumerate(track(accents, description="speaking")):
        rng = random.Random(index)  # noqa: S311 - voices, not keys
        for take in range(TAKES):
            variant = rng.choice(VARIANTS)
            for word, english, german in zip(spelled, DIGITS, GERMAN, strict=True):
                samples = speak(word, f"{accent}+{variant}", rng)
                name = f"audio/{english}_{index}_{take}.flac"
                soundfile.write(folder / name, samples, RATE_HZ)
                entries.append(
                    {
                        "audio_filepath": name,
                        "duration": round(samples.size / RATE_HZ, 3),
                        "text": english,
                        "source_lang": "en",
                        "translations": {"de": german},
                        "speaker": f"espeak_{accent}_{take}",
                    }
                )
    return entries


def main(data: Path) -> None:
    """Speak the digits into DATA/synthetic/digits."""
    if shutil.which("espeak-ng") is None:
        raise SystemExit("espeak-ng is not on the path; install it (apt install espeak-ng, brew install espeak-ng)")
    folder = data / "synthetic" / "digits"
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    entries = lines(folder)
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    print(f"{len(entries)} words in {folder}")


if __name__ == "__main__":
    typer.run(main)
