"""Transcribe and translate a recording with the embedded demo; text is printed as the model writes it.

    python examples/transcribe_file.py [FILE [SOURCE [TARGET]]]

Without arguments it takes examples/audio/digits_en.wav to German. Expected output: one line for each of vier, fünf,
eins, acht and neun, with the seconds of the recording that had been heard when it was written.

Needs: pip install 'bestow-edge[cpu]'
"""

import sys
from pathlib import Path

import bestow_edge as be

RECORDING = Path(__file__).parent / "audio" / "digits_en.wav"


def main(file: str = str(RECORDING), source: str = "en", target: str = "de") -> None:
    """Feed a file block by block and print each event."""
    model = be.load("demo")
    with model.session(source=source, target=target) as session, be.open_audio(file, model.sample_rate_hz) as audio:
        for event in be.stream(session, audio):
            if isinstance(event, be.TextEvent):
                print(f"{event.start_s:6.2f} s  {event.text.strip()}", flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:4])
    except be.BestowEdgeError as error:
        sys.exit(str(error))
