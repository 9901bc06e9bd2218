"""The reasons for which a test may be skipped. They are counted at the end of a run; in CI any other skip is a failure.

A test skips with a reason of REASONS first, and details after a colon: `pytest.skip(f"no Docker engine: {problem}")`.
Continuous integration sets CI=true; `.ci/run` does so itself.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest

Environment = Mapping[str, str]
LONGEST = 100
"""Characters of a reason that are printed."""


def _always(_: Environment) -> bool:
    return True


def _without_bubblewrap(environment: Environment) -> bool:
    """`.ci/run` installs bubblewrap, so only a kernel that forbids namespaces is a reason there."""
    return shutil.which("bwrap", path=environment.get("PATH")) is not None


def _without_engine(environment: Environment) -> bool:
    """`.ci/run` sets DOCKER_HOST where it has started an engine."""
    return not environment.get("DOCKER_HOST")


@dataclass(frozen=True)
class Reason:
    """A reason to skip a test: how its text begins, and whether CI may skip a test for it."""

    prefix: str
    allowed_in_ci: Callable[[Environment], bool] = _always


REASONS = (
    Reason("no GPU"),
    Reason("only one GPU"),
    Reason("a GPU is present"),
    Reason("the engine has GPUs"),
    Reason("torch is built for CUDA"),
    Reason("no bubblewrap sandbox", _without_bubblewrap),
    Reason("no docker sandbox", _without_engine),
    Reason("no sandbox", lambda environment: _without_bubblewrap(environment) and _without_engine(environment)),
    Reason("no Docker engine", _without_engine),
    Reason("bubblewrap only"),
    Reason("no tmpfs"),
    Reason("root only"),
    # bitsandbytes has a step of its own in .ci/run; the other extras are installed by no step
    Reason("bitsandbytes is not installed"),
    Reason("Unsloth is not installed"),
    Reason("lm-eval is not installed"),
    Reason("Ray is not installed"),
)


def in_ci(environment: Environment) -> bool:
    """Whether continuous integration runs the tests."""
    return environment.get("CI", "").lower() in ("1", "true")


def is_expected(text: str, environment: Environment) -> bool:
    """Whether a test may be skipped for this reason."""
    matches = [reason for reason in REASONS if text.startswith(reason.prefix)]
    return bool(matches) and (not in_ci(environment) or all(reason.allowed_in_ci(environment) for reason in matches))


class SkipReport:
    """A pytest plugin of the process that reports: with xdist the reports of all workers arrive there."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._count: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a skipped test. An expected failure is a report of the same kind, with `wasxfail`."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._add(report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count a module that is skipped as a whole."""
        if report.skipped:
            self._add(report.longrepr)

    def _add(self, longrepr: object) -> None:
        text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
        self._count[text.removeprefix("Skipped: ")] += 1

    def _unexpected(self) -> list[str]:
        return [text for text in self._count if not is_expected(text, self._environment)]

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Fail the run for a skip that is not expected, in CI only."""
        if in_ci(self._environment) and self._unexpected() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        yield

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print how many tests were skipped for each reason."""
        if not self._count:
            return
        terminalreporter.section("skipped")
        surprises = self._unexpected()
        for text, count in self._count.most_common():
            note = "  <- not expected: see tests/skips.py" if text in surprises else ""
            terminalreporter.line(f"{count:4} {text[:LONGEST]}{note}")
        terminalreporter.line(f"{self._count.total():4} skipped in all, {len(surprises)} unexpected reasons")


def register(config: pytest.Config) -> None:
    """Count skips in this run, unless this is a worker of xdist."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkipReport(os.environ), "skips")
