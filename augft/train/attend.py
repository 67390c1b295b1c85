"""The driver while the workers train: shows what they tell, records what befalls them, passes on a wish to stop."""

from __future__ import annotations

import _thread
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.train import UserCallback
from ray.train.torch import TorchTrainer

from augft.display import Display
from augft.errors import AugftError, HeadLostError, RunError, Stopped
from augft.signals import when_asked_to_stop
from augft.train.contact import Heard, Listener, Pulse, stop_process
from augft.train.incidents import Incidents
from augft.train.lease import Lease
from augft.train.session import Head
from augft.train.watch import Watch

_POLL_S = 0.5
_DIED = re.compile(r"because (its (?:worker process|node) has died)")


class Attendance:
    """Attends a run from its start to its end.

    The trainer runs in the calling thread, and a thread of this one attends: Ray must not be shut down, after a Ctrl-C
    say, while another thread waits for it.

    Args:
        listener: what the workers speak to.
        incidents: the run's record.
        lease: held on the run directory.
        hang_timeout_s: how long the run may make no step; None: for ever.
        shown: for people.
        on_line: called with each line of metrics.jsonl.
    """

    def __init__(
        self,
        listener: Listener,
        incidents: Incidents,
        lease: Lease,
        hang_timeout_s: float | None,
        shown: Display,
        on_line: Callable[[dict[str, Any]], None] = lambda line: None,
    ) -> None:
        self._listener = listener
        self._incidents = incidents
        self._lease = lease
        self._watch = Watch(hang_timeout_s)
        self._shown = shown
        self._on_line = on_line
        self._step: int | None = None
        self._asked: list[int] = []
        self._error: RunError | None = None

    def attend(self, trainer: TorchTrainer, uri: str) -> dict[str, Any]:
        """Fit a trainer.

        Returns:
            What the training loop returned.

        Raises:
            AugftError: it failed, in one line.
            Stopped: it was asked to, and has saved.
            KeyboardInterrupt: it was asked to a second time.
        """
        # Ray Train's own answer to Ctrl-C is to kill the workers where they are.
        trainer._register_sigint_handler = lambda controller: None
        ended = threading.Event()
        attending = threading.Thread(target=self._until, args=(ended, uri), name="attend", daemon=True)
        with self._stop_signals():
            attending.start()
            try:
                outcome: dict[str, Any] = trainer.fit().return_value
            except KeyboardInterrupt:
                raise self._error or KeyboardInterrupt from None
            except Exception as error:
                reason = f"{uri}: {in_a_line(error)}; go on from the last checkpoint with --resume"
                raise self._error or RunError(reason) from None
            finally:
                ended.set()
                attending.join()
        if self._error is not None:
            raise self._error
        self._incidents.flush()
        if isinstance(failure := outcome.get("error"), AugftError):
            raise failure
        if (step := outcome.get("stopped_at")) is not None:
            raise Stopped(f"{uri}: stopped after step {step} and saved; go on with --resume")
        return outcome

    def _until(self, ended: threading.Event, uri: str) -> None:
        """Attend until the trainer has ended; or, where something is wrong that it does not notice, end it."""
        try:
            self._attend(ended, uri)
        except RunError as error:
            self._error = error
        except ray.exceptions.RayError as error:
            self._error = RunError(f"{uri}: Ray does not answer any more ({in_a_line(error)}); go on with --resume")
        if self._error is not None and not ended.is_set():
            _thread.interrupt_main()

    def _attend(self, ended: threading.Event, uri: str) -> None:
        head, told = Head(), False
        while not ended.wait(_POLL_S):
            if self._asked and not told:
                told = True
                self._shown.say("finishing the step, then saving; once more (Ctrl-C) stops at once")
                self._listener.ask_to_stop()
            if head.is_lost():
                raise HeadLostError(
                    f"{uri}: the head of the cluster ({head.address}) does not answer any more; start it again and "
                    "go on with --resume"
                )
            self._take(self._listener.take())
            if self._lease.lost:
                raise RunError(f"{uri}: another run has taken the directory; this one stops")
        self._take(self._listener.take())

    @contextmanager
    def _stop_signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM is noted, the second interrupts; so does the attending thread, with a reason."""

        def ask(number: int) -> None:
            self._asked.append(number)
            if len(self._asked) > 1 or self._error is not None:
                raise KeyboardInterrupt

        with when_asked_to_stop(ask):
            yield

    def _take(self, heard: Heard) -> None:
        for event in heard.events:
            if event["kind"] == "incident":
                self._record(event["what"], event["text"], event["step"])
            elif event["kind"] == "failed":
                self._watch.restart()
                self._record("restart", event["text"], self._step)
            else:
                self._step = event.get("step", self._step)
                if event["kind"] == "line":
                    self._on_line(event)
                self._shown.handle(event)
        self._watch.hear(heard.pulses)
        for pulse in self._watch.hung():
            self._end(pulse)

    def _end(self, pulse: Pulse) -> None:
        """Stop a hung worker, so that Ray Train starts all anew."""
        who = f"worker {pulse.rank} (process {pulse.pid} on {pulse.address})"
        how = "has not been heard of" if self._watch.is_silent(pulse) else pulse.phase
        text = f"{who} hangs at step {pulse.step}: {how}; no step for {self._watch.timeout_s:g} s"
        self._record("hang", f"{text}; it is stopped" if stop_process(pulse) else text, pulse.step)

    def _record(self, what: str, text: str, step: int | None) -> None:
        self._shown.say(text)
        self._incidents.add(what, text, step)


class TellFailures(UserCallback):  # type: ignore[misc]
    """Tells the driver of workers that failed; Ray Train runs it beside its controller."""

    def __init__(self, listener: Any) -> None:
        self._listener = listener

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        text = "; ".join(f"worker {rank}: {in_a_line(error)}" for rank, error in sorted(worker_exceptions.items()))
        self._listener.tell.remote({"kind": "failed", "text": f"{text}; the workers start again"})


def in_a_line(error: BaseException) -> str:
    """The innermost error of a worker, in a line."""
    for inner in getattr(error, "worker_failures", {}).values():
        return in_a_line(inner)
    inner = getattr(error, "cause", None) or error.__cause__
    if isinstance(inner, BaseException):
        return in_a_line(inner)
    text = str(error).strip()
    if died := _DIED.search(text):  # Ray goes on about what may have been the cause
        return died[1]
    return f"{type(error).__name__}: {text.splitlines()[-1] if text else 'no message'}"
