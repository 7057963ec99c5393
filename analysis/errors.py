"""The errors that end a report with a message."""


class InputError(ValueError):
    """What the user asked for is not there; the message says what is."""


class WorkerLost(RuntimeError):
    """A process that ran a network was killed, and two more after it."""
