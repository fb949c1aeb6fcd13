"""A bundle as an agent of SimulEval 1.1.4, which measures it as it measures others.

    pip install 'bestow-edge[cpu,simuleval]'
    simuleval --agent examples/simuleval_agent.py --lang en-de --k 3 --source-segment-size 80 \
        --source source.txt --target target.txt --output out --latency-metrics LAAL AL ATD

`source.txt` names an audio file a line, `target.txt` holds the references. `bestow-edge eval source.txt --target
target.txt --lang en-de --k 3` gives the same scores. Options: --bundle, --lang, --k, --lookahead.
"""

from argparse import ArgumentParser, Namespace

import numpy as np
from simuleval.agents import SpeechToTextAgent
from simuleval.agents.actions import Action, ReadAction, WriteAction
from simuleval.utils import entrypoint

import bestow_edge as be
from bestow_edge.evaluation.run.listening import WordStream


@entrypoint
class BestowAgent(SpeechToTextAgent):  # type: ignore[misc]  # SimulEval has no types
    """Hears each segment as it comes and writes words that are whole."""

    def __init__(self, args: Namespace) -> None:
        self.model = be.load(args.bundle, threads=args.threads)
        super().__init__(args)

    @staticmethod
    def add_args(parser: ArgumentParser) -> None:
        """Declare the agent's own options."""
        parser.add_argument("--bundle", help="directory of the bundle; default: the embedded demo")
        parser.add_argument("--lang", default="en-de", help="languages of speech and text")
        parser.add_argument("--k", type=int, help="blocks heard before the first token")
        parser.add_argument("--lookahead", type=int, help="steps of 80 ms the encoder looks ahead")
        parser.add_argument("--threads", type=int, default=1, help="CPU threads")

    def reset(self) -> None:
        """Begin the next utterance."""
        super().reset()
        source, target = self.args.lang.split("-")
        self.session = self.model.session(source=source, target=target, k=self.args.k, lookahead=self.args.lookahead)
        self.stream: WordStream | None = None
        self.num_heard = 0

    def policy(self) -> Action:
        """Hear what is new and write what it completes; when to write is the bundle's policy."""
        if self.stream is None:
            self.stream = WordStream(self.session, self.states.source_sample_rate)
        new = np.array(self.states.source[self.num_heard :], np.float32)  # (samples,) or (samples, channels)
        self.num_heard += len(new)
        ended = self.states.source_finished
        words = self.stream.feed(new if new.ndim == 1 else new.mean(axis=1), ended=ended)
        return WriteAction(" ".join(words), finished=ended) if words or ended else ReadAction()
