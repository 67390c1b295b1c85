"""Every error that augft raises on purpose.

The message of each says what is wrong, where, and what to do, in one line: the command line prints it as it is,
without a traceback. An `InputError` ends with exit code 2, a `RunError` with 1, `Stopped` with 130 as an interrupted
command does.

    AugftError
    ├── InputError              the input is wrong: nothing was run, nothing half-written
    │   ├── ConfigError         a job file or an override
    │   ├── PolicyError         an augmentation policy
    │   ├── DataError           a source, a picture, a packed data set
    │   ├── WeightsError        a weights file, or weights for another architecture
    │   ├── RunDirectoryError   a run directory that is missing, in use, or of another job
    │   └── ResourceError       a cluster that does not answer, too few CPUs, too small an object store
    ├── RunError                the run began and failed
    │   ├── HeadLostError       the head of the cluster does not answer any more
    │   ├── NonFiniteLossError  the loss became NaN or infinite
    │   └── StorageError        a checkpoint or a result could not be written
    └── Stopped                 somebody asked the run to stop, and it has saved
"""

from __future__ import annotations


class AugftError(Exception):
    """Base of all errors that augft raises on purpose."""

    exit_code = 1


class InputError(AugftError):
    """The input is wrong; the message says where and what to do."""

    exit_code = 2


class ConfigError(InputError):
    """A job file or a `--set` override is wrong."""


class PolicyError(InputError):
    """An augmentation policy is wrong."""


class DataError(InputError):
    """A source, a picture or a packed data set is wrong."""


class WeightsError(InputError):
    """A weights file cannot be used for this model."""


class RunDirectoryError(InputError):
    """A run directory is missing, in use, or belongs to another job."""


class ResourceError(InputError):
    """The machine or cluster cannot run this job."""


class RunError(AugftError):
    """The run began and failed."""


class HeadLostError(RunError):
    """The head of the cluster does not answer any more."""


class NonFiniteLossError(RunError):
    """The loss became NaN or infinite; the update was not applied."""


class StorageError(RunError):
    """A checkpoint or a result could not be written."""


class Stopped(AugftError):  # noqa: N818
    """Somebody asked the run to stop: it finished its step, saved, and can be gone on with."""

    exit_code = 130
