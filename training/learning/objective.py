"""The training losses, each as a sum over its items, so that the result does not depend on the split into batches.

The loss of a step is the sum of each loss over all batches, divided by the number of its items (answer tokens, encoder
steps, ...) in all batches. Neither depends on the number of processes or on gradient accumulation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bestow_edge.model.base import Outputs, Speech, SpeechModel
from bestow_edge.training.data.examples import COUNTS, IGNORED, NO_LABEL, NULL_FRAME
from bestow_edge.training.recipe.stages import StageRecipe

BLANK_WEIGHT = 0.3  # of ten steps nine have no label; at equal weight words are learned late
PARTS = ("token_loss", "ctc_loss", "alignment_loss", "count_loss", "attention_loss", "reading_loss", "right")
"""The sums of a batch, in the order of `count_items` and of the objective's `sums`. `right` is not a loss."""


def count_items(batch: dict[str, Tensor], weights: Tensor | None = None) -> Tensor:
    """Return (parts,) float32, the number of items of each of `PARTS` in a batch.

    `weights` are those of `Objective.target_weights`; None = 1 each.
    """
    answered = (batch["targets"] != IGNORED).sum() if weights is None else weights.sum()
    labels = batch["step_labels"]
    counts = (
        answered,
        (batch["frame_lens"] > 0).sum(),
        (labels >= 0).sum() + BLANK_WEIGHT * (labels == NO_LABEL).sum(),
        (batch["step_counts"] != IGNORED).sum(),
        (batch["word_steps"][..., 0] != IGNORED).sum(),
        answered * (batch["frame_lens"] > 0).any(),
        answered,
    )
    return torch.stack([count.float() for count in counts])


class Objective(nn.Module):
    """The model with its losses, in the form that transformers' Trainer expects."""

    def __init__(self, model: SpeechModel, *, vocab_size: int, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        width = model.config.encoder.width
        own = getattr(model.connector, "ctc_head", None)  # of a compressor, part of the checkpoint
        self.ctc_head = nn.Linear(width, vocab_size + 1) if own is None else None  # the last label is the blank
        self.count_head = nn.Linear(width, COUNTS)
        self.label_smoothing = label_smoothing
        self.stage: StageRecipe | None = None
        layers = set(model.encoder._no_split_modules or ()) | set(model.llm._no_split_modules or ())
        self._no_split_modules = sorted(layers)  # classes of the layers, which FSDP shards and compile compiles

    def prepare(self, stage: StageRecipe) -> None:
        """Set the stage, freeze the parts it does not train, and compile layers. LoRA is always trained."""
        self.stage = stage
        parts: dict[str, nn.Module] = {name: getattr(self.model, name) for name in ("encoder", "connector", "llm")}
        for name, module in parts.items():
            for key, weight in module.named_parameters():
                weight.requires_grad_(name in stage.trained or "lora_" in key)
        self.label_head.requires_grad_(bool(stage.ctc_weight or stage.alignment_weight))
        self.count_head.requires_grad_(bool(stage.count_weight))
        if stage.activation_checkpointing:
            for part in (self.model.encoder, self.model.llm):
                part.activation_checkpointing_enable()
        if stage.compile:
            for module in self.modules():
                if type(module).__name__ in self._no_split_modules:
                    module.compile(dynamic=True)

    def train(self, mode: bool = True) -> Objective:
        """Switch to training. A frozen encoder stays in evaluation mode, so that its batch norms do not change."""
        super().train(mode)
        if self.stage is not None and "encoder" not in self.stage.trained:
            self.model.encoder.train(False)
        return self

    @property
    def label_head(self) -> nn.Linear:
        """The head of the losses on labels: that of a compressor, or a helper that no checkpoint has."""
        head: nn.Linear = self.model.connector.ctc_head if self.ctc_head is None else self.ctc_head
        return head

    @property
    def prepared(self) -> StageRecipe:
        """The stage of `prepare`."""
        if self.stage is None:
            raise RuntimeError("prepare the objective for a stage first")
        return self.stage

    def target_weights(self, targets: Tensor) -> Tensor | None:
        """Return the weight of each target in the loss of the answer, of the shape of `targets`; None = 1 each."""
        weight = self.prepared.blank_weight
        if weight == 1:
            return None
        end = self.model.config.llm["eos_token_id"]
        ends = torch.tensor(end if isinstance(end, list | tuple) else [end], device=targets.device)
        weights = torch.where(torch.isin(targets, ends), weight, 1.0)
        return weights.masked_fill(targets == IGNORED, 0.0)

    @property
    def loss_weights(self) -> tuple[float, ...]:
        """Weights of `PARTS` in the loss."""
        stage = self.prepared
        answer = 0.0 if stage.objective == "ctc" else 1.0
        encoder = (stage.ctc_weight, stage.alignment_weight, stage.count_weight)
        return (answer, *encoder, stage.attention_weight, stage.reading_weight, 0.0)

    def forward(self, *, items: Tensor, **batch: Tensor) -> dict[str, Tensor]:
        """Return `loss` and, for the log, the sums of `PARTS` as `sums`, (parts,) float.

        Args:
            items: (parts,) float, `count_items` over all batches of the step; the loss divides the sums by them.
            **batch: as `bestow_edge.training.data.batches.collate` returns it, all speech or all text.
        """
        stage = self.prepared
        zero = items.new_zeros(())
        sums = [zero] * len(PARTS)
        speech = None
        if stage.objective != "text":
            speech = self.encode(batch["mel"], batch["frame_lens"], int(batch["lookahead"]))
            sums[1:4] = self._encoder_sums(speech, batch)
        if stage.objective != "ctc":
            sums[0], sums[4:] = self._answer_sums(speech, batch)
        stacked = torch.stack(sums)
        weights = stacked.new_tensor(self.loss_weights)
        return {"loss": (weights * stacked / items.clamp(min=1e-6)).sum(), "sums": stacked.detach()}

    def logits(self, token_ids: Tensor, speech: Speech, visible_steps: Tensor) -> Tensor:
        """Return next-token logits, (batch, tokens, vocab) float, for decoding."""
        outputs: Outputs = self.model(token_ids, speech, visible_steps)
        return outputs.logits

    def encode(self, mel: Tensor, frame_lens: Tensor, lookahead: int) -> Speech:
        """Encode speech. A batch of text gives zero steps.

        For text the encoder runs on a short silence, so that every weight takes part in the step: other processes wait
        for its gradients and shards.
        """
        trained = self.stage is not None and "encoder" in self.stage.trained
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            if mel.shape[1]:
                return self.model.encode(mel, frame_lens, lookahead)
            frames, mode = 2 * self.model.config.encoder.run_multiple, self.model.encoder.training
            self.model.encoder.train(False)
            silence = self.model.encode(
                mel.new_zeros(1, frames, mel.shape[2]), frame_lens.new_full((1,), frames), lookahead
            )
            self.model.encoder.train(mode)
            return Speech(silence.steps[:, :0].expand(mel.shape[0], -1, -1), frame_lens)

    def _encoder_sums(self, speech: Speech, batch: dict[str, Tensor]) -> list[Tensor]:
        stage, steps = self.prepared, speech.steps
        sums = [steps.new_zeros((), dtype=torch.float32)] * 3
        if stage.ctc_weight or stage.alignment_weight:
            log_probs = self.label_head(steps).float().log_softmax(-1)  # (batch, steps, vocab + blank)
            if not steps.shape[1]:
                sums[0] = log_probs.sum()  # 0 without steps, but the head takes part in the step as for speech
            elif stage.ctc_weight:
                sums[0] = self._ctc(log_probs, speech.lens, batch["transcript_ids"])
            if stage.alignment_weight:
                sums[1] = self._alignment(log_probs, batch["step_labels"])
        if stage.count_weight:
            counts = self.count_head(steps).float().flatten(0, 1)
            labels = batch["step_counts"].flatten()
            sums[2] = F.cross_entropy(counts, labels, ignore_index=IGNORED, reduction="sum")
        return sums

    def _answer_sums(self, speech: Speech | None, batch: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the sum of the answer's loss, and those of attention and reading loss and of right next tokens.

        The reading loss compares what the connector adds to the embeddings with those of all tokens: what it heard is
        to be the next token. It teaches the connector without the LLM, sooner and for less, and keeps it to that
        beside the LLM.
        """
        stage, targets = self.prepared, batch["targets"]
        reads_alone = stage.objective == "reading"
        outputs: Outputs = self.model(batch["token_ids"], speech, batch["visible_steps"], with_llm=not reads_alone)
        attended = read = right = outputs.logits.new_zeros((), dtype=torch.float32)
        if outputs.alignment is not None and stage.attention_weight:
            attended = self._attention(outputs.alignment.float(), batch["word_steps"])
        if outputs.added is not None and (reads_alone or (stage.reading_weight and batch["mel"].shape[1])):
            table: Any = self.model.llm.get_input_embeddings()  # Any: a Module by its type, an Embedding in every LLM
            read, right = self._token_sums(F.linear(outputs.added, table.weight), targets)
        if reads_alone:
            return read, [attended, torch.zeros_like(read), right]
        answer, right = self._token_sums(outputs.logits, targets)
        return answer, [attended, read, right]

    def _token_sums(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy of the answer's next tokens, and the number of right ones, both weighted."""
        weights = self.target_weights(targets)
        loss = F.cross_entropy(
            logits.float().flatten(0, 1),
            targets.flatten(),
            ignore_index=IGNORED,
            label_smoothing=self.label_smoothing,
            reduction="sum" if weights is None else "none",
        )
        right = ((logits.argmax(-1) == targets) & (targets != IGNORED)).float()
        if weights is None:
            return loss, right.sum()
        return (loss * weights.flatten()).sum(), (right * weights).sum()

    def _alignment(self, log_probs: Tensor, step_labels: Tensor) -> Tensor:
        """Return the cross-entropy along the path of CTC's trellis that word times define."""
        blank = self.label_head.out_features - 1
        labels = step_labels.masked_fill(step_labels == NO_LABEL, blank)
        weight = log_probs.new_ones(blank + 1)
        weight[blank] = BLANK_WEIGHT
        return F.nll_loss(log_probs.flatten(0, 1), labels.flatten(), weight, ignore_index=IGNORED, reduction="sum")

    @staticmethod
    def _attention(attention: Tensor, word_steps: Tensor) -> Tensor:
        """Return the negative log of each answer position's attention to the steps of its own word.

        A position that writes no word should attend to the null frame. The loss teaches the order of words, which the
        next-token loss alone does not, and makes the attention of the exported graph usable for alignment.
        """
        null = attention.shape[-1] - 1
        ranges = torch.where(word_steps == NULL_FRAME, word_steps.new_tensor([null, null + 1]), word_steps)
        step = torch.arange(null + 1, device=attention.device)
        own = (step >= ranges[..., :1]) & (step < ranges[..., 1:])  # (batch, tokens, steps + 1)
        paid = (attention * own).sum(-1).clamp(min=1e-6)
        return -(paid.log() * (word_steps[..., 0] != IGNORED)).sum()

    def _ctc(self, log_probs: Tensor, step_lens: Tensor, transcript_ids: Tensor) -> Tensor:
        """Return the sum over utterances of CTC's loss divided by the number of labels."""
        log_probs = log_probs.transpose(0, 1)  # (steps, batch, vocab + blank)
        label_lens = (transcript_ids >= 0).sum(-1)
        labels = transcript_ids.clamp(min=0)
        blank = self.label_head.out_features - 1
        losses = F.ctc_loss(log_probs, labels, step_lens, label_lens, blank=blank, reduction="none", zero_infinity=True)
        return (losses / label_lens.clamp(min=1)).sum()
