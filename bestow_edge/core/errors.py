"""Typed errors of the whole project.

Every one is caused by something a user can act on: the message says what was got, what was expected and what to do.
The command line prints it as one sentence and exits with code 2.
"""


class BestowEdgeError(Exception):
    """Base of all errors this package raises on purpose."""


class ConfigError(BestowEdgeError, ValueError):
    """A config, recipe or manifest field is unknown, missing or out of range."""


class AudioError(BestowEdgeError, ValueError):
    """A file or a block of samples cannot be used as audio."""


class AudioDeviceError(BestowEdgeError, OSError):
    """There is no microphone, no PortAudio library, or the device went away."""


class DeviceError(BestowEdgeError, RuntimeError):
    """A GPU is missing, failed or has too little memory, or a graph would run on the CPU instead."""


class ManifestError(BestowEdgeError, ValueError):
    """A line of a speech manifest is wrong; the message carries path and line number."""


class CheckpointError(BestowEdgeError, ValueError):
    """A checkpoint, of this or of another project, is missing, incomplete or does not fit its config."""


class HubError(BestowEdgeError, OSError):
    """A model of the Hugging Face Hub is neither in its cache nor to be had."""


class BundleError(BestowEdgeError, ValueError):
    """A bundle cannot be used."""


class BundleMissingError(BundleError, FileNotFoundError):
    """There is no bundle at the path, or a file of it is missing."""


class BundleVersionError(BundleError):
    """The bundle was written in another format version."""


class BundleIntegrityError(BundleError):
    """A file of the bundle was truncated or altered."""


class SignatureError(BundleError):
    """A graph's inputs or outputs differ from its GraphSpec."""


class GraphError(BestowEdgeError, RuntimeError):
    """A graph failed while it ran, or returned what no model returns; the session that ran it has ended."""


class EngineError(BestowEdgeError, RuntimeError):
    """A TensorRT engine cannot be built, loaded or run with the sizes asked for."""


class PromptError(BestowEdgeError, ValueError):
    """A model was not trained for a request, a question is empty or too long, or a hotword cannot be used."""


class SessionError(BestowEdgeError, RuntimeError):
    """A session is used after it was finished."""


class BacklogError(SessionError):
    """A live session holds all the audio it may hold; nothing of the block was taken."""


class RefusedError(BestowEdgeError):
    """A server refuses a request or ends a stream."""

    def __init__(self, message: str, *, status: int, code: int) -> None:
        """Take the reason.

        Args:
            message: one sentence for the client.
            status: of the answer over HTTP, such as 503.
            code: that closes a WebSocket, such as 1013.
        """
        super().__init__(message)
        self.status, self.code = status, code


class TraceError(BestowEdgeError, ValueError):
    """A trace is missing, damaged or of another bundle, or its file exists already."""


class TrainingError(BestowEdgeError, RuntimeError):
    """A run of training cannot go on: memory, disk or a process of it is gone. Its last save is complete."""


class TrainingStoppedError(TrainingError):
    """A run of training was asked to stop by a signal and has saved its state."""

    def __init__(self, signum: int, stage: str, step: int) -> None:
        """Keep what happened.

        Args:
            signum: number of the signal.
            stage: name of the stage that was stopped.
            step: step of it that is saved; the same command goes on behind it.
        """
        super().__init__(f"stopped; the same command goes on from the last save, step {step} of stage {stage}")
        self.signum, self.stage, self.step = signum, stage, step


class ExportError(BestowEdgeError, RuntimeError):
    """A checkpoint cannot be exported."""


class ParityError(ExportError):
    """An exported graph differs from PyTorch by more than its tolerance."""


class AgreementError(ExportError):
    """Quantised graphs decide differently from float32 ones on real speech, more often than allowed."""


class MissingExtraError(BestowEdgeError, ImportError):
    """A package is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        """Name the missing module and the command that installs it.

        Args:
            module: import name that failed, such as `sounddevice`.
            extra: extra of this distribution that installs it; empty = the distribution itself does.
        """
        wanted = f"[{extra}]" if extra else ""
        super().__init__(f"{module} is not installed; run: pip install 'bestow-edge{wanted}'")
        self.module = module
        self.extra = extra
