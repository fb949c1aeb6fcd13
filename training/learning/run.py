"""A run: the data, tokenizer and model of a recipe, from random weights or from a checkpoint, and the run's files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, set_seed

from bestow_edge.core.checkpoint import TOKENIZER_FILE, load_config
from bestow_edge.core.config import ModelConfig
from bestow_edge.core.connectors import CONNECTORS
from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.core.files import write_atomically
from bestow_edge.core.specs.chunked import ChunkedConfig
from bestow_edge.model.base import SpeechModel
from bestow_edge.model.checkpoint import load_weights, save_checkpoint
from bestow_edge.model.pretrained.components import plain_config
from bestow_edge.model.pretrained.configs import refused
from bestow_edge.training.data.alignment import read_times, save_times
from bestow_edge.training.data.batches import read_noises
from bestow_edge.training.data.corpora.mixture import Corpora, MixedDataset
from bestow_edge.training.data.examples import ExampleMaker
from bestow_edge.training.data.tokens import BEGIN, CHAT, END, PAD, SPECIAL_TOKENS, prompt_ids, train_tokenizer
from bestow_edge.training.learning.cpu_kernels import use_fast_kernels
from bestow_edge.training.learning.first_weights import init_encoder, take_encoder
from bestow_edge.training.learning.objective import Objective
from bestow_edge.training.learning.weights import State, load_state, read_state, save_state, split
from bestow_edge.training.recipe.data import teaches_labels
from bestow_edge.training.recipe.fitting import check_fit
from bestow_edge.training.recipe.recipe import ModelRecipe, Recipe, check_lookaheads, model_config
from bestow_edge.training.recipe.stages import StageRecipe

DEV_BATCHES = 8
T = TypeVar("T")
HEADS_FILE = "heads.safetensors"
LABELS_FILE = "labels.json"


class Run:
    """Data, tokenizer and model, which all stages share."""

    def __init__(self, recipe: Recipe, data_dir: Path, out: Path, *, weights: bool = True) -> None:
        """Read manifests, load or train the tokenizer, and build the model.

        Args:
            recipe: the recipe.
            data_dir: directory the recipe's manifests are relative to.
            out: directory of the run.
            weights: whether to build the model; without it there is no `objective`.

        Raises:
            ManifestError: if a manifest or a noise directory is missing or wrong.
            ConfigError: if the model's parts do not fit each other, the recipe or the tokenizer.
            CheckpointError: if `init` is not a checkpoint.
        """
        self.recipe, self.out = recipe, out
        set_seed(recipe.seed)
        config, tokenizer = given(recipe)
        known = config or _known(recipe.model)
        self.corpora = Corpora(recipe.data, recipe.stages, known.pairs, data_dir)
        self.noises = read_noises(recipe.data, data_dir, known.features.sample_rate_hz)
        if config is None or tokenizer is None:
            model = _known(recipe.model)
            texts, words = self.corpora.texts(), self.corpora.words
            tokenizer = train_tokenizer(texts, model.pairs, model.vocab_size, words, model.connector.mark)
            names = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": PAD}
            ids: dict[str, Any] = {name: tokenizer.token_to_id(token) for name, token in names.items()}  # Any: or None
            config = fresh_config(model, tokenizer.get_vocab_size(), ids)
        check_turns(recipe, config)
        questions = {*config.questions, *self.corpora.questions()}
        self.config = replace(config, questions=tuple(sorted(questions)))
        self.tokenizer = self.labels = tokenizer
        if recipe.labels:
            self.labels = self._kept_labels() or train_tokenizer(self.corpora.transcripts(), (), recipe.labels)
        self.end_id = check_vocabulary(config, tokenizer)
        prompts = [prompt_ids(tokenizer, pair, config.chat) for pair in config.pairs]
        labels = self.labels.get_vocab_size()
        check_fit(recipe, self.config, prompt_tokens=max(map(len, prompts)), labels=labels)
        if not weights:
            return
        self.objective = self.new_objective()
        if recipe.init:
            load_weights(self.objective.model, Path(recipe.init))
            return
        if any(stage.objective == "text" for stage in recipe.stages):
            self.objective.model.connector.start_silent()
        if recipe.model is not None and recipe.model.encoder_from:
            take_encoder(self.objective.model.encoder, Path(recipe.model.encoder_from), recipe.model.encoder_layers)
        elif isinstance(self.config.encoder, ChunkedConfig) and (speech := self._typical_features()) is not None:
            init_encoder(self.objective.model.encoder, speech)

    def new_objective(self) -> Objective:
        """Return the model and its losses with random weights."""
        model = SpeechModel.from_config(self.config)
        if not torch.cuda.is_available():
            use_fast_kernels(model)
        return Objective(
            model,
            vocab_size=self.labels.get_vocab_size(),
            label_smoothing=self.recipe.label_smoothing,
        )

    def _typical_features(self) -> Tensor | None:
        """Return a batch of speech joined into one row, (1, frames, mel_bins). None = there is no source of speech."""
        spoken = {source.name: source.weight for source in self.recipe.data.sources if not source.texts}
        if not spoken:
            return None
        stage = replace(self.recipe.stages[0], sources=spoken)
        seed = self.recipe.seed * 1000
        batch = self.corpora.dataset(self.maker(stage), dev=False, num_batches=1, seed=seed, noises=self.noises)[0]
        rows = zip(batch["mel"], batch["frame_lens"].tolist(), strict=True)
        return torch.cat([mel[:length] for mel, length in rows])[None]

    def maker(self, stage: StageRecipe) -> ExampleMaker:
        """Return the maker of a stage's examples."""
        return ExampleMaker(self.config, self.tokenizer, stage, self.end_id, self.labels)

    def align(self, stage: StageRecipe, *, process: int, processes: int) -> Path | None:
        """Align this process's share of the recordings with `word_times: aligned`.

        Returns:
            The directory in which every process writes its share, for `read_aligned`. None = no recordings to align.
        """
        before = self.recipe.stages[: self.recipe.stages.index(stage)]
        maker = self.maker(stage)
        self.corpora.measure(maker)
        wanted = self.corpora.to_align(stage)
        if not wanted or not any(teaches_labels(earlier) for earlier in before):
            return None
        directory = self.out / stage.name / "word_times"
        file, share = directory / f"{process}_of_{processes}.jsonl", slice(process, None, processes)
        if torch.cuda.is_available():
            self.objective.to("cuda")
        save_times(self.objective, wanted, maker, file, share, bf16=self.recipe.precision == "bf16")
        return directory

    def read_aligned(self, directory: Path, processes: int) -> None:
        """Read the word times that all processes have written."""
        files = [directory / f"{process}_of_{processes}.jsonl" for process in range(processes)]
        self.corpora.aligned = read_times(files)

    def dataset(self, stage: StageRecipe, *, dev: bool, processes: int = 1) -> MixedDataset:
        """Return a stage's batches, for training or for the dev loss. They are equal for any number of processes."""
        seed = self.recipe.seed * 1000 + self.recipe.stages.index(stage) * 2 + dev
        num_batches = DEV_BATCHES if dev else stage.steps * batches_per_step(stage, processes)
        noises = [] if dev else self.noises
        return self.corpora.dataset(self.maker(stage), dev=dev, num_batches=num_batches, seed=seed, noises=noises)

    def save(self, state: State, directory: Path) -> None:
        """Write the weights of an `Objective` as a checkpoint, with LoRA merged and without the heads."""
        model = SpeechModel.from_config(self.config)
        load_state(model, split(state)[0], str(directory))
        save_checkpoint(model, self.tokenizer.to_str(), directory)

    def _kept_labels(self) -> Tokenizer | None:
        """Return the label vocabulary of an earlier stage, if there is one. The data may have changed since."""
        path = self.out / LABELS_FILE
        return Tokenizer.from_file(str(path)) if path.is_file() else None

    def save_stage(self, stage: StageRecipe, state: State) -> None:
        """Write the result of a stage. The checkpoint comes last: with it the stage is complete."""
        if self.recipe.labels:
            write_atomically(self.out / LABELS_FILE, self.labels.to_str())
        save_state(split(state)[1], self.out / stage.name / HEADS_FILE)
        self.save(state, self.out / stage.name / "model")

    def load_stage(self, stage: StageRecipe) -> None:
        """Build the model again with the result of a stage."""
        self.objective = self.new_objective()
        directory = self.out / stage.name
        load_weights(self.objective.model, directory / "model")
        self.objective.load_state_dict(read_state(directory / HEADS_FILE), strict=False)


def batches_per_step(stage: StageRecipe, processes: int) -> int:
    """Return the batches of one optimiser step over all processes.

    Raises:
        ConfigError: if the processes cannot share them evenly.
    """
    wanted = stage.batches_per_step or processes
    if wanted % processes:
        raise ConfigError(
            f"stage {stage.name}: {processes} processes cannot share batches_per_step {wanted} evenly; "
            "take a multiple of the number of processes"
        )
    return wanted


def fresh_config(model: ModelRecipe, vocab_size: int, special_ids: dict[str, int]) -> ModelConfig:
    """Return the complete config of a model with random weights.

    Raises:
        ConfigError: if transformers does not know the encoder or the LLM, or the parts do not fit.
    """
    network = model.encoder.settled_network(model.features)
    llm = {**model.llm, "vocab_size": vocab_size, **special_ids}
    if (named := model.connector.mark_id) is not None:
        got = f"names token {named}, but the tokenizer that is trained has its own mark of speech"
        raise ConfigError(f"model.connector: {got}; leave it out")
    mark = model.connector.mark
    chat = replace(CHAT, after=f"{mark}{CHAT.after}")
    model = replace(model, connector=model.connector.with_mark(len(SPECIAL_TOKENS)))  # the mark follows them
    return model_config(model, network=_complete(network, "encoder"), llm=_complete(llm, "llm"), chat=chat)


def check_turns(recipe: Recipe, config: ModelConfig) -> None:
    """Check that stages and sources suit a connector whose LLM hears speech in turns and decides when it writes.

    Raises:
        ConfigError: if a stage sets masks or attention, or a source of speech has no word times.
    """
    if not CONNECTORS[config.connector.kind].continuous:
        return
    name = f"connector {config.connector.kind}"
    for number, stage in enumerate(recipe.stages):
        aligned = any(teaches_labels(earlier) for earlier in recipe.stages[:number])
        if unused := [field for field in ("streaming", "pauses", "attention_weight") if getattr(stage, field)]:
            raise ConfigError(f"stage {stage.name}: {name} has no use for {', '.join(unused)}; remove them")
        for source in recipe.data.sources if stage.objective == "bestow" else ():
            used = not stage.sources or source.name in stage.sources
            if used and not source.texts and not source.timed(aligned=aligned):
                problem = f"{name} learns from word times when to write; set word_times"
                raise ConfigError(
                    f"source {source.name}: {problem}: manifest, estimated, or aligned behind a CTC stage"
                )


def check_vocabulary(config: ModelConfig, tokenizer: Tokenizer) -> int:
    """Return the token that ends an answer.

    Raises:
        ConfigError: if the vocabulary lacks a token that training needs.
    """
    rows, size = config.llm.get("vocab_size", 0), tokenizer.get_vocab_size()
    if size > rows:
        raise ConfigError(f"tokenizer: {size} tokens, but the LLM has {rows}; take the tokenizer that belongs to it")
    end = config.llm.get("eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    if not isinstance(end, int) or not 0 <= end < rows or tokenizer.id_to_token(end) is None:
        raise ConfigError(f"llm: eos_token_id {end!r} is no token of the vocabulary; without it an answer never ends")
    return end


def given(recipe: Recipe) -> tuple[ModelConfig | None, Tokenizer | None]:
    """Return config and tokenizer of the checkpoint that a recipe starts from."""
    if not recipe.init:
        return None, None
    directory = Path(recipe.init)
    config = load_config(directory)
    if recipe.pairs:
        config = ModelConfig.from_dict(config.to_dict() | {"pairs": list(recipe.pairs)})
    if not config.pairs:
        raise ConfigError(f"{directory}: the checkpoint names no language pairs; set pairs in the recipe")
    check_lookaheads(recipe, config.encoder)
    if recipe.model is not None:
        _compare(recipe.model, config, directory)
    tokenizer_file = directory / TOKENIZER_FILE
    try:
        return config, Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # tokenizers has no error type of its own
        raise CheckpointError(f"{tokenizer_file}: not a tokenizer ({error}); make the checkpoint again") from error


def _compare(model: ModelRecipe, config: ModelConfig, directory: Path) -> None:
    """Check that the model of a recipe is equal to that of the checkpoint."""
    held_mark = config.connector.mark_id
    if held_mark is not None and model.connector.mark_id is None:
        model = replace(model, connector=model.connector.with_mark(held_mark))
    given, found = model_config(model, network=model.encoder.network, llm=model.llm).to_dict(), config.to_dict()
    pairs = [("pairs", given["pairs"], found["pairs"])]
    networks = given["encoder"].pop("network"), found["encoder"]["network"]
    parts = {part: (given[part], found[part]) for part in ("encoder", "llm", "connector", "features", "policy")}
    for part, (values, held) in (parts | {"encoder.network": networks}).items():
        pairs += [(f"{part}.{name}", value, held.get(name)) for name, value in values.items()]
    for name, value, held in pairs:
        if value != (tuple(held) if isinstance(value, tuple) and isinstance(held, list) else held):
            raise ConfigError(
                f"model.{name} is {value!r} in the recipe and {held!r} in {directory}; "
                "remove one of model and init, or correct it"
            )


def _known(value: T | None) -> T:
    """Return a value that the recipe's checks guarantee."""
    if value is None:
        raise ConfigError("recipe: give model or init")
    return value


def _complete(values: dict[str, Any], part: str) -> dict[str, Any]:
    """Return a transformers config with all its fields, also those left out in the recipe."""
    options = dict(values)
    model_type = options.pop("model_type", None)
    with refused(f"model.{part}: transformers refuses this config"):
        config = plain_config(AutoConfig.for_model(model_type, **options))
    # As a checkpoint's config.json holds it; a Whisper's sizes keep the names that all encoders have.
    complete: dict[str, Any] = json.loads(json.dumps(values | config, sort_keys=True))
    return complete
