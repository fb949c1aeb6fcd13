"""Runs every utterance at every setting, in one process or in several, and stores the finished ones in a `Store`."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from bestow_edge.core.errors import SessionError
from bestow_edge.core.hotwords import Hotword
from bestow_edge.core.prompts import Pair, Question
from bestow_edge.evaluation.run.directory import Store
from bestow_edge.evaluation.run.listening import listen
from bestow_edge.evaluation.run.samples import Sample
from bestow_edge.evaluation.run.settings import Setting
from bestow_edge.evaluation.scores.instances import Instance
from bestow_edge.runtime.audio.files import read_waveform
from bestow_edge.runtime.model import Model, load


@dataclass(frozen=True, slots=True)
class Task:
    """One utterance at one setting."""

    setting: Setting
    index: int
    sample: Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Runner:
    """Model, languages and processes of an evaluation. It is pickled for the worker processes."""

    bundle: Path
    pair: Pair
    """Languages; with questions, those of speech and answers."""
    questions: bool = False
    """Whether each sample's question is asked and its answer is scored."""
    device: str = "cpu"
    threads: int = 1
    """Threads of each process."""
    jobs: int = 1
    """Processes."""
    hotwords: tuple[Hotword, ...] = ()
    """As for `Model.session`."""

    @property
    def name(self) -> str:
        """Name of the task, for headings."""
        return f"questions about {self.pair.source}" if self.questions else str(self.pair)

    def run(
        self,
        samples: Sequence[Sample],
        settings: Sequence[Setting],
        store: Store,
        progress: Callable[[int, int], None],
    ) -> list[list[Instance]]:
        """Run the utterances that are not finished yet.

        Args:
            samples: the utterances.
            settings: the settings.
            store: holds the utterances finished earlier and takes those finished now.
            progress: called with the number of finished utterances and of all, both over all settings.

        Returns:
            Instances of each setting, in the order of the samples.

        Raises:
            AudioError, BundleError, ConfigError: if a recording or the bundle cannot be used.
            SessionError: if a worker process died.
        """
        before = [store.finished(setting, len(samples)) for setting in settings]
        tasks = []
        for setting, found in zip(settings, before, strict=True):
            tasks += [Task(setting, index, sample) for index, sample in enumerate(samples) if index not in found]
        total = len(settings) * len(samples)
        progress(total - len(tasks), total)
        with closing(self._results(tasks)) as results:
            for done, (task, instance) in enumerate(results, total - len(tasks) + 1):
                store.add(task.setting, instance)
                progress(done, total)
        return [store.complete(setting, len(samples)) for setting in settings]

    def _results(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Instance]]:
        """Yield tasks as they finish, in any order."""
        if not tasks:
            return
        if self.jobs == 1:
            model = self.load_model()
            for task in tasks:
                yield task, run_task(model, self, task)
            return
        context = multiprocessing.get_context("spawn")  # onnxruntime's threads do not survive a fork
        workers = min(self.jobs, len(tasks))
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(self,)) as pool:
            try:
                futures = {pool.submit(_work, task): task for task in tasks}
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BrokenProcessPool as error:
                lost = "a process ended before its work did, perhaps for lack of memory"
                raise SessionError(f"{lost}; run the same command with fewer --jobs") from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def load_model(self) -> Model:
        """Load the bundle."""
        return load(self.bundle, device=self.device, threads=self.threads)


def run_task(model: Model, runner: Runner, task: Task) -> Instance:
    """Run one utterance."""
    sample, pair = task.sample, runner.pair
    waveform, rate_hz = read_waveform(sample.path, offset_s=sample.offset_s, duration_s=sample.duration_s)
    lookahead = task.setting.lookahead
    policy = task.setting.make_policy(model.config.policy)
    asked = Question(pair.source, sample.question) if sample.question else pair
    with model.multi_session([(asked, policy)], lookahead=lookahead, hotwords=runner.hotwords) as session:
        instance = listen(session, waveform, rate_hz).instance(task.index, sample.reference, str(sample.path))
    return replace(instance, extra={**instance.extra, "question": sample.question}) if sample.question else instance


_process: dict[str, tuple[Model, Runner]] = {}  # of a worker process: one model for all its tasks


def _start(runner: Runner) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process stops the workers
    logging.getLogger("bestow_edge").setLevel(logging.ERROR)  # the main process has logged it
    _process["loaded"] = runner.load_model(), runner


def _work(task: Task) -> Instance:
    model, runner = _process["loaded"]
    return run_task(model, runner, task)
