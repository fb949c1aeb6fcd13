"""Greedy decoding with the PyTorch model, several utterances at once, and the WER and BLEU of the texts.

`bestow_edge.runtime.stream.loop` decides on each token, as in a session of one segment. There are no caches: the few
texts of an evaluation do without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bestow_edge.core.config import ModelConfig
from bestow_edge.core.policy import EveryStep, Policy
from bestow_edge.core.specs.interleave import SPEECH, delay_token, interleave
from bestow_edge.runtime.decoders.base import Attempt
from bestow_edge.runtime.stream.answer import Answer
from bestow_edge.runtime.stream.loop import decide
from bestow_edge.training.data.batches import Batch
from bestow_edge.training.data.examples import IGNORED
from bestow_edge.training.learning.objective import Objective

MOST_TOKENS = 256  # of an answer: a model that has not learned to stop would go on


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance to be written down."""

    mel: Tensor
    """(frames, mel_bins) float."""
    prompt: tuple[int, ...]
    """Tokens before the answer."""
    reference: tuple[int, ...]
    """Tokens of the right answer, without the end."""


LineUp = Callable[[Utterance, Answer, int, int], tuple[Tensor, Tensor]]
"""Token ids and visible steps of a text, given the steps that its last token sees and those of the utterance."""


def utterances_of(batch: Batch, *, continuous: bool) -> list[Utterance]:
    """Take a batch apart.

    The last token of the prompt is the first answered position. If speech and text share one sequence (`continuous`),
    the prompt and its delay are the positions that see no speech, and the text is what is answered.
    """
    found = []
    for row in range(batch["mel"].shape[0]):
        answered = (batch["targets"][row] != IGNORED).nonzero().flatten().tolist()
        if answered and int(batch["frame_lens"][row]):
            tokens, targets = batch["token_ids"][row].tolist(), batch["targets"][row].tolist()
            first, last = answered[0], answered[-1]
            mel = batch["mel"][row, : int(batch["frame_lens"][row])]
            prompt, text = tokens[: first + 1], tokens[first + 1 : last + 1]
            if continuous:
                spoken = batch["visible_steps"][row].tolist()
                prompt = tokens[: next(place for place, step in enumerate(spoken) if step) - 1]
                text = [target for target in targets if target not in {IGNORED, targets[last]}]
            found.append(Utterance(mel, tuple(prompt), tuple(text)))
    return found


@torch.no_grad()
def write_down(
    objective: Objective,
    utterances: Sequence[Utterance],
    policy: Policy,
    *,
    lookahead: int,
    end_id: int,
    device: torch.device,
    any_process: Callable[[bool], bool] = lambda busy: busy,
) -> list[list[int]]:
    """Write one or more utterances down, greedily, and return the tokens of each answer.

    The objective is in evaluation mode. `lookahead` counts encoder steps. `end_id` ends an answer or, before the end of
    the speech, pauses it. `any_process` tells whether a flag is set in any of the processes that share the model, which
    take every step together.
    """
    mels = torch.nn.utils.rnn.pad_sequence([item.mel.to(device) for item in utterances], batch_first=True)
    lens = torch.tensor([item.mel.shape[0] for item in utterances], device=device)
    speech = objective.encode(mels, lens, lookahead)
    continuous = isinstance(policy, EveryStep)
    answers = [Answer(policy, MOST_TOKENS, continuous=continuous) for _ in utterances]
    line_up: LineUp = _masked
    if isinstance(policy, EveryStep):
        config = objective.model.config
        layout = _added if interleave(config).form == "additive" else _in_turns
        line_up = partial(layout, policy=policy, config=config, end_id=end_id)
    heard = (speech.lens + continuous).tolist()  # with the mark of the end
    while True:
        wanted = [answer.wants(steps, ended=True) for answer, steps in zip(answers, heard, strict=True)]
        if not any_process(any(visible is not None for visible in wanted)):
            return [list(answer.token_ids) for answer in answers]
        rows = zip(utterances, answers, wanted, heard, strict=True)
        sequences = [line_up(item, answer, visible or 0, steps) for item, answer, visible, steps in rows]
        ids, visible_steps = (
            torch.nn.utils.rnn.pad_sequence([row[part] for row in sequences], batch_first=True) for part in range(2)
        )
        logits = objective.logits(ids.to(device), speech, visible_steps.to(device))
        last_tokens = torch.tensor([len(row) - 1 for row, _ in sequences], device=device)
        best = logits[torch.arange(len(answers), device=device), last_tokens].argmax(-1).tolist()
        for answer, token_id, visible, steps in zip(answers, best, wanted, heard, strict=True):
            if visible is not None:
                attempt = Attempt(token_id, 0.0, visible, _unknown)
                if decide(answer, attempt, last=visible == steps, end_ids=(end_id,)) == "write":
                    answer.write(attempt)


def _masked(item: Utterance, answer: Answer, visible: int, _heard: int) -> tuple[Tensor, Tensor]:
    """Return token ids and visible steps, (tokens,) each, of a text whose last token sees some steps."""
    ids = torch.tensor([*item.prompt, *answer.token_ids])
    before = [0] * (len(item.prompt) - 1)  # the prompt before its last token sees no speech
    return ids, torch.tensor([*before, *(word.visible_steps for word in answer.words), visible])


def _in_turns(
    item: Utterance, answer: Answer, visible: int, heard: int, *, policy: EveryStep, config: ModelConfig, end_id: int
) -> tuple[Tensor, Tensor]:
    """Return the same of speech and text in turns; the mark of the end is the last of the steps `heard`."""
    ids, seen = [*item.prompt, delay_token(config, policy.delay)], 0
    steps = [0] * len(ids)
    for word in [*answer.words, None]:
        end = visible if word is None else word.visible_steps
        ids += [SPEECH if step < heard else end_id for step in range(seen + 1, end + 1)]
        steps += range(seen + 1, end + 1)
        seen = max(seen, end)
        if word is not None:
            ids.append(word.token_id)
            steps.append(seen)
    return torch.tensor(ids), torch.tensor(steps)


def _added(
    item: Utterance, answer: Answer, visible: int, heard: int, *, policy: EveryStep, config: ModelConfig, end_id: int
) -> tuple[Tensor, Tensor]:
    """Return the same with a position for each step, which holds the token before; the rest stands behind the mark."""
    ids = [*item.prompt, delay_token(config, policy.delay)]
    steps = [0] * len(ids)
    written = {word.visible_steps: word.token_id for word in answer.words if word.visible_steps < heard}
    ids += [written.get(step, end_id) for step in range(visible)]
    steps += range(1, visible + 1)
    rest = [word.token_id for word in answer.words if word.visible_steps == heard]
    return torch.tensor([*ids, *rest]), torch.tensor([*steps, *[heard] * len(rest)])


def _unknown() -> npt.NDArray[np.float32]:
    """Return no probabilities: they are not needed here."""
    return np.zeros(0, dtype=np.float32)


def scores(texts: Sequence[tuple[str, str, str]], pairs: Mapping[str, bool]) -> dict[str, float]:
    """Return `wer` over transcripts and `bleu` over the other texts, in percent, where there are any.

    Each text is a kind (a language pair or another task), a reference and a hypothesis; `pairs` says which kinds are
    transcription.
    """
    import jiwer
    from sacrebleu.metrics.bleu import BLEU

    spoken = [(right, said) for kind, right, said in texts if pairs.get(kind, False)]
    others = [(right, said) for kind, right, said in texts if not pairs.get(kind, False)]
    found: dict[str, float] = {}
    words = sum(len(right.split()) for right, _ in spoken)
    if words:
        counted = [jiwer.process_words(*pair) for pair in spoken if pair[0].split()]
        wrong = sum(item.substitutions + item.deletions + item.insertions for item in counted)
        wrong += sum(len(said.split()) for right, said in spoken if not right.split())  # all of it is too much
        found["wer"] = 100 * wrong / words
    if others:
        references, hypotheses = map(list, zip(*others, strict=True))
        found["bleu"] = BLEU(effective_order=True).corpus_score(hypotheses, [references]).score
    return found
