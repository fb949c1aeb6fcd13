"""The training loss: next token on the answer, and helpers on the encoder's output and on the adapter's attention.

Knows tensors, not data.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bestow_edge.model.bestow import BestowModel
from bestow_edge.training.examples import COUNTS, IGNORED, NO_LABEL, NULL_FRAME

BLANK_WEIGHT = 0.3  # nine steps in ten hold no label; at equal weight the words are learned late


class Objective(nn.Module):
    """The model with its loss, in the form transformers' Trainer drives."""

    def __init__(self, model: BestowModel, *, vocab_size: int, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.ctc_head = nn.Linear(model.config.encoder["hidden_size"], vocab_size + 1)  # the last label is the blank
        self.ctc_weight = 0.0  # the weights are set for each stage
        self.alignment_weight = 0.0
        self.count_weight = 0.0
        self.attention_weight = 0.0
        self.count_head = nn.Linear(model.config.encoder["hidden_size"], COUNTS)
        self.label_smoothing = label_smoothing

    def forward(
        self,
        *,
        mel: Tensor,
        frame_lens: Tensor,
        token_ids: Tensor,
        visible_steps: Tensor,
        targets: Tensor,
        transcript_ids: Tensor,
        step_labels: Tensor,
        step_counts: Tensor,
        word_steps: Tensor,
        lookahead: Tensor,
    ) -> dict[str, Tensor]:
        """Return `loss` and, for logging, its parts and `right` (share of right answer tokens).

        Shapes as `bestow_edge.training.batches.collate` returns them.
        """
        speech, step_lens = self.model.encode(mel, frame_lens, int(lookahead))
        logits, attention = self.model.align(token_ids, speech, visible_steps)
        logits = logits.float()  # (batch, tokens, vocab)
        token_loss = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=self.label_smoothing
        )
        heard = self.ctc_head(speech).float().log_softmax(-1)  # (batch, steps, vocab + blank)
        ctc_loss = self._ctc(heard, step_lens, transcript_ids) if self.ctc_weight else token_loss.new_zeros(())
        alignment_loss = self._alignment(heard, step_labels) if self.alignment_weight else token_loss.new_zeros(())
        answered = targets != IGNORED
        right = (logits.argmax(-1) == targets)[answered].float().mean()
        count_loss = self._count(speech, step_counts) if self.count_weight else token_loss.new_zeros(())
        attention_loss = self._attention(attention.float(), word_steps)
        loss = token_loss + self.ctc_weight * ctc_loss + self.attention_weight * attention_loss
        loss = loss + self.alignment_weight * alignment_loss + self.count_weight * count_loss
        parts = {"token_loss": token_loss, "ctc_loss": ctc_loss, "alignment_loss": alignment_loss}
        parts |= {"count_loss": count_loss, "attention_loss": attention_loss, "right": right}
        return {"loss": loss} | {name: part.detach() for name, part in parts.items()}

    def _alignment(self, log_probs: Tensor, step_labels: Tensor) -> Tensor:
        """Cross-entropy along one path of CTC's trellis, known where words have times; needs no search for it."""
        blank = self.ctc_head.out_features - 1
        labels = step_labels.masked_fill(step_labels == NO_LABEL, blank)
        weight = log_probs.new_ones(blank + 1)
        weight[blank] = BLANK_WEIGHT
        return F.nll_loss(log_probs.flatten(0, 1), labels.flatten(), weight, ignore_index=IGNORED)

    def _count(self, speech: Tensor, step_counts: Tensor) -> Tensor:
        """Cross-entropy of each step with the number of words heard so far.

        The adapter has no positions over speech: which of two equal words comes next it can tell only by what the
        encoder says of their order.
        """
        counts = self.count_head(speech).float()
        return F.cross_entropy(counts.flatten(0, 1), step_counts.flatten(), ignore_index=IGNORED)

    @staticmethod
    def _attention(attention: Tensor, word_steps: Tensor) -> Tensor:
        """Negative log of the attention that each answer position pays to the steps of its own word.

        A position with nothing to write belongs to the null frame. It teaches the order of words, which next-token loss
        alone leaves to chance, and makes the attention of the exported graph fit for alignment.
        """
        null = attention.shape[-1] - 1
        ranges = torch.where(word_steps == NULL_FRAME, word_steps.new_tensor([null, null + 1]), word_steps)
        step = torch.arange(null + 1, device=attention.device)
        own = (step >= ranges[..., :1]) & (step < ranges[..., 1:])  # (batch, tokens, steps + 1)
        paid = (attention * own).sum(-1).clamp(min=1e-6)
        return -paid.log()[word_steps[..., 0] != IGNORED].mean()

    def _ctc(self, log_probs: Tensor, step_lens: Tensor, transcript_ids: Tensor) -> Tensor:
        log_probs = log_probs.transpose(0, 1)  # (steps, batch, vocab + blank)
        label_lens = (transcript_ids >= 0).sum(-1)
        labels = transcript_ids.clamp(min=0)
        blank = self.ctc_head.out_features - 1
        return F.ctc_loss(log_probs, labels, step_lens, label_lens, blank=blank, zero_infinity=True)
