"""Write words as often as they are used, a word a line: texts by which `llm.py` chooses tokens.

pip install wordfreq
python examples/people/words.py en > words_en.txt
"""

from __future__ import annotations

import sys

from wordfreq import top_n_list, word_frequency

WORDS = 60_000
SCALE, MOST = 300_000, 60  # lines of a word are its frequency times the scale, and no more than that


def main() -> None:
    """Write the words of the language that the command line names."""
    language = sys.argv[1]
    for word in top_n_list(language, WORDS):
        if word.replace("'", "").isalpha():
            lines = min(MOST, max(1, round(word_frequency(word, language) * SCALE)))
            for form, share in ((word, 0.6), (word.capitalize(), 0.4)):
                print("\n".join([form] * max(1, round(lines * share))))


if __name__ == "__main__":
    main()
