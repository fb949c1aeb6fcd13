"""Live translation from the microphone inside a program of your own; Ctrl-C ends it and flushes what is left.

    python examples/microphone.py [SOURCE [TARGET]]

Expected output, after saying "one two three" and pressing Ctrl-C:

    listening to 0: Built-in Audio (ALSA), Ctrl-C ends
    eins zwei drei

Needs: pip install 'bestow-edge[cpu,mic]', on Linux also: apt install libportaudio2
"""

import signal
import sys

import bestow_edge as be
from bestow_edge.runtime.audio.microphone import Microphone


def main(source: str = "en", target: str = "de") -> None:
    """Print the text of one session on the default microphone."""
    model = be.load("demo")
    with (
        model.session(source=source, target=target) as session,
        Microphone(sample_rate_hz=model.sample_rate_hz) as microphone,
    ):
        # Stop recording instead of interrupting: the blocks recorded so far still come, then the loop ends by itself.
        signal.signal(signal.SIGINT, lambda *_: microphone.stop())
        print(f"listening to {microphone.device}, Ctrl-C ends", file=sys.stderr)
        for event in be.stream(session, microphone):
            print(event.text, end="", flush=True)
    print()
    if microphone.num_overflows:
        print(f"the device lost sound {microphone.num_overflows} times: this computer is too slow", file=sys.stderr)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except be.BestowEdgeError as error:  # no microphone, no PortAudio, an unknown language
        sys.exit(str(error))
