"""What a user can fix. Every message says where, what, and what next."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence

from ganpo_core.redact import redact


class GanpoError(Exception):
    """Something a user can fix; the command line prints it without a traceback. Credentials in a message are masked."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))

    exit_code: int = 1
    """What the command line exits with."""


class ConfigError(GanpoError):
    """One or more mistakes in a run file or in a component's options, reported together."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        given = (problems,) if isinstance(problems, str) else problems
        self.problems: tuple[str, ...] = tuple(map(redact, given))
        super().__init__("\n".join(self.problems))


class PluginError(GanpoError):
    """A plugin is missing, does not import, or clashes with another."""


class DataError(GanpoError):
    """Rows that cannot be read, or that cannot become a preference pair."""


class CheckpointError(GanpoError):
    """A folder of a run that cannot be written, trusted or resumed."""


class TrainingError(GanpoError):
    """A run that must stop: a value that is not finite, or a combination that only the models reveal."""


class NotFiniteError(TrainingError):
    """A value that is not finite stopped a step before anything was updated."""

    def __init__(self, message: str, found: Mapping[str, float], rows: Sequence[str]) -> None:
        self.found = dict(found)
        """What was not finite, on how many processes."""
        self.rows = tuple(rows)
        """The step's rows whose own loss was not finite on this process."""
        super().__init__(message)


def first_line(error: BaseException) -> str:
    """What an error of another library says, for a message of ours: its first line, or its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_own(error: BaseException) -> bool:
    """Whether an error that passed through a plugin's code is ours or the user's, not a mistake of the plugin.

    While a run catches SIGINT, Ctrl-C raises nothing: a KeyboardInterrupt is then the plugin's.
    """
    if isinstance(error, KeyboardInterrupt):
        return signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, GanpoError | Stop)


class StoppedError(GanpoError):
    """A signal stopped the run; what it had saved is whole."""

    def __init__(self, number: int, when: str) -> None:
        self.exit_code = 128 + number
        super().__init__(f"stopped by {signal.Signals(number).name} {when}")


class Stop(BaseException):
    """A signal on its way out of whatever ran when it came; `Interrupts` makes it a StoppedError.

    No Exception: readers of rows, images and models take any of those for a mistake in what they read.
    """
