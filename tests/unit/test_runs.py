"""The runs of a home, followed and cancelled by any process. Trainers here are small programs in real processes."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from academy.cli.main import main
from academy.errors import InputError
from academy.habitat.backends.base import TrainingEvent, TrainingOrder
from academy.habitat.backends.following import run_order
from academy.habitat.backends.process import _Subprocess, ending_of
from academy.habitat.job_names import name_job
from academy.habitat.run_folder import read_events
from academy.habitat.runs import all_runs, cancel_run, find_run, is_followed, run_log, run_progress
from academy.habitat.trainer import events as trainer_events
from academy.habitat.trainer.events import EventWriter
from academy.home.identity import adopt_home
from academy.store.locks import exclusive_lock
from tests.orders import order_of

POLITE = ""
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
FOLLOWER = """
import subprocess, sys
from academy.habitat.backends import process
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.backends.following import run_order
from academy.habitat.backends.process import _Subprocess
process.TERMINATE_SECONDS = 0.5
order = TrainingOrder.model_validate_json(sys.argv[1])
for event in run_order(order, lambda: _Subprocess(subprocess.Popen([sys.executable, "-c", sys.argv[2]])), 600):
    print(event.model_dump_json(), flush=True)
"""


@pytest.fixture
def order(tmp_path: Path) -> TrainingOrder:
    file = tmp_path / "train.jsonl"
    file.write_text("{}\n")
    return order_of(tmp_path / "home", file)


def trainer(order: TrainingOrder, first: str) -> str:
    """A program that writes two steps and its process id, and runs for a minute."""
    return (
        f"import os, signal, time; {first}"
        "from pathlib import Path; from academy.habitat.trainer.events import EventWriter; "
        f"events = EventWriter(Path({str(order.folder / 'events.jsonl')!r})); "
        "events.write('started', message=str(os.getpid())); events.write('step', step=1, steps=9, loss=2.0); "
        "events.write('step', step=2, steps=9, loss=1.0); time.sleep(60)"
    )


class Elsewhere:
    """A training that another process follows."""

    def __init__(self, order: TrainingOrder, first: str) -> None:
        self.order = order
        self.follower = subprocess.Popen(
            [sys.executable, "-c", FOLLOWER, order.model_dump_json(), trainer(order, first)], stdout=subprocess.PIPE
        )
        self.heard = [self.hear() for _ in range(3)]
        self.trainer = int(self.heard[0].message)

    def hear(self) -> TrainingEvent:
        assert self.follower.stdout
        return TrainingEvent.model_validate_json(self.follower.stdout.readline())

    def is_there(self) -> bool:
        return Path(f"/proc/{self.trainer}").exists()


@pytest.fixture
def start(order: TrainingOrder) -> Iterator[Callable[[str], Elsewhere]]:
    made: list[Elsewhere] = []

    def begin(first: str = POLITE) -> Elsewhere:
        made.append(Elsewhere(order, first))
        return made[-1]

    yield begin
    for one in made:
        one.follower.kill()
        one.follower.wait()
        if one.follower.stdout:
            one.follower.stdout.close()
        if one.is_there():
            os.kill(one.trainer, signal.SIGKILL)


Academy = Callable[..., tuple[int, str, str]]


@pytest.fixture
def academy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Academy]:
    """Runs `academy habitat` in this process."""
    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    adopt_home(tmp_path / "home")  # a training may have filled it already
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    logger = logging.getLogger("academy")
    before = (logger.handlers[:], logger.level, logger.propagate)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["academy", "habitat", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        found = capsys.readouterr()
        return int(ended.value.code or 0), found.out, found.err

    yield run
    logger.handlers, logger.level, logger.propagate = before


@pytest.mark.slow
@pytest.mark.parametrize("first", [POLITE, DEAF])
def test_a_training_cancelled_by_another_process_continues_later(start: Callable[[str], Elsewhere], first: str) -> None:
    running = start(first)
    folder = running.order.folder
    (folder / "checkpoints").mkdir()
    assert run_progress(folder).status == "running"
    found = cancel_run(folder)
    assert (found.status, found.cause, found.step, found.loss) == ("cancelled", "cancelled", 2, 1.0)
    last = running.hear()
    assert (last.n, last.phase, last.cause) == (4, "failed", "cancelled")
    assert running.follower.wait(timeout=30) == 0
    assert not running.is_there()
    assert not is_followed(folder)
    assert (folder / "checkpoints").is_dir()
    with pytest.raises(InputError, match="is not running"):
        cancel_run(folder)
    again = start(POLITE)  # the cancel file of the earlier attempt has no effect; earlier events come first
    assert [event.n for event in again.heard] == [1, 2, 3]
    begun = again.hear()
    again.trainer = int(begun.message)
    assert (begun.n, begun.phase) == (4, "started")
    assert run_progress(folder).status == "running"
    assert cancel_run(folder).attempts == 2


def test_commands_show_and_cancel_a_training(
    start: Callable[[], Elsewhere], academy: Academy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACADEMY_PRICE_PER_HOUR", "3.5")
    running = start()
    name = running.order.folder.name
    code, out, _ = academy("runs", "--json")
    (told,) = json.loads(out)
    assert (code, told["run"], told["status"], told["step"], told["steps"]) == (0, name, "running", 2, 9)
    assert "running" in academy("runs")[1]
    job = name_job(running.order.runs, name)
    assert json.loads(academy("runs", "--json")[1])[0]["job"] == job
    for said in (name[:6], job, running.order.digest):
        code, out, _ = academy("status", said, "--json")
        assert (code, json.loads(out)["best_loss"]) == (0, 1.0)
    assert json.loads(out)["cost"] == pytest.approx(json.loads(out)["seconds"] / 3600 * 3.5)
    assert "22.2 %" in academy("status", name)[1]
    lines = json.loads(academy("logs", name, "--json")[1])["lines"]
    assert [one["line"] for one in lines] == [1, 2, 3]
    code, out, _ = academy("cancel", name)
    assert (code, out) == (0, f"The training {name} is cancelled at step 2 of 9; its checkpoint stays.\n")
    code, out, err = academy("cancel", name)
    assert (code, out) == (2, "")
    assert err == f"The training {name} is not running. `academy habitat runs` shows which are.\n"
    followed = academy("logs", name, "--follow")[1].splitlines()
    assert [int(one.split()[0]) for one in followed] == [1, 2, 3, 4]
    assert "was cancelled" in followed[-1]
    assert json.loads(academy("logs", name, "--follow", "--json")[1].splitlines()[1])["text"].startswith("step 1 of 9")
    assert "cancelled" in academy("status", name)[1]


def test_an_unknown_or_ambiguous_run_is_refused(tmp_path: Path, academy: Academy) -> None:
    assert academy("runs")[1] == "No trainings yet.\n"
    for name in ("abc1", "abc2"):
        (tmp_path / "home" / "runs" / name).mkdir(parents=True)
    assert "This home has no training 9" in academy("status", "9")[2]
    assert "This home has no training training_" in academy("status", "training_")[2]
    assert "This home has no training .." in academy("status", "..")[2]
    assert "Several trainings match abc: abc1, abc2. Give more characters of the digest." in academy("cancel", "abc")[2]
    assert find_run(tmp_path / "home" / "runs", "abc2").name == "abc2"


def test_runs_are_listed_newest_first_with_unreadable_ones(tmp_path: Path) -> None:
    for name, at in (("old", 10.0), ("new", 20.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.jsonl").write_text(
            TrainingEvent(n=1, at=at, phase="started").model_dump_json() + "\n"
        )
    (tmp_path / "spoilt").mkdir()
    (tmp_path / "spoilt" / "events.jsonl").write_text("no event\n")
    (tmp_path / "link").symlink_to(tmp_path / "old")
    assert [(name, one.status) for name, one in all_runs(tmp_path)] == [
        ("new", "failed"), ("old", "failed"), ("spoilt", "failed"),
    ]  # fmt: skip
    assert "cannot be read" in str(all_runs(tmp_path)[-1][1].error)


def test_files_left_by_a_container_hide_no_other_run(tmp_path: Path) -> None:
    for name in ("folder", "future"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder" / "events.jsonl").mkdir()
    (tmp_path / "future" / "events.jsonl").write_text('{"n": 1, "at": 1e18, "phase": "started"}\n')
    found = dict(all_runs(tmp_path))
    assert "is not a regular file" in str(found["folder"].error)
    assert "cannot be read" in str(found["future"].error)


@pytest.mark.slow
@pytest.mark.parametrize("lively", [True, False])
def test_a_trainer_with_activity_between_events_is_not_stopped(order: TrainingOrder, lively: bool) -> None:
    """Its steps take longer than the allowed silence, or it hangs."""
    program = (
        "import time; from pathlib import Path; "
        "from academy.habitat.trainer import events; events.PULSE_SECONDS = 0.1; "
        f"told = events.EventWriter(Path({str(order.folder / 'events.jsonl')!r})); told.write('started'); "
        "end = time.monotonic() + 3\n"
        f"while time.monotonic() < end: time.sleep(0.05); {'told.pulse()' if lively else ''}\n"
        "told.write('failed', cause='data')"
    )
    told = list(run_order(order, lambda: _Subprocess(subprocess.Popen([sys.executable, "-c", program])), 2))
    assert [event.phase for event in told] == ["started", "failed"]
    assert told[-1].cause == ("data" if lively else "killed"), told[-1].message


def test_a_long_library_call_shows_activity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_events, "PULSE_SECONDS", 0.01)
    monkeypatch.setattr(trainer_events, "LONGEST_SECONDS", 0.3)
    file = tmp_path / "events.jsonl"
    events = EventWriter(file)
    events.write("started")
    before = file.stat().st_mtime_ns
    with events.busy():
        time.sleep(0.2)
        first = file.stat().st_mtime_ns
        time.sleep(0.4)
        second = file.stat().st_mtime_ns
        time.sleep(0.2)
        assert before < first <= second == file.stat().st_mtime_ns, "until the limit, and not longer"
    assert len(file.read_text().splitlines()) == 1


def test_an_event_on_a_full_disk_leaves_the_others_intact(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    events = EventWriter(file)
    events.write("started")
    size = file.stat().st_size
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, usual[1]))  # half of the next event fits
    try:
        with pytest.raises(OSError, match="File too large"):
            events.write("contract", message="rows in and out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    events.write("failed", cause="disk")
    assert [(event.n, event.phase) for event in read_events(file)] == [(1, "started"), (2, "failed")]


def test_a_recipe_search_is_not_listed_as_a_training(tmp_path: Path) -> None:
    (tmp_path / "tune-3f9a").mkdir()
    assert all_runs(tmp_path) == []
    with pytest.raises(InputError, match="This home has no training tune-3f9a"):
        find_run(tmp_path, "tune-3f9a")


def test_a_searchs_running_trial_is_listed_and_cancelled(start: Callable[[], Elsewhere], order: TrainingOrder) -> None:
    runs = order.runs
    order.__dict__["runs"] = runs / "tune-3f9a"  # in the search's folder
    (runs / "tune-3f9a" / "adapters").mkdir(parents=True)
    (runs / "tune-3f9a" / "0123").mkdir()  # left by a killed search
    running = start()
    assert [(name, one.status) for name, one in all_runs(runs)] == [(order.folder.name, "running")]
    folder = find_run(runs, order.folder.name[:8])
    assert cancel_run(folder).status == "cancelled"
    assert running.follower.wait(timeout=30) == 0
    assert all_runs(runs) == []


def test_a_status_query_does_not_block_a_start(tmp_path: Path) -> None:
    """A status query shares the lock for a moment; a process that takes the lock tries again."""
    program = (
        "import sys; from pathlib import Path; from academy.store.locks import is_locked; print(1, flush=True)\n"
        f"while True: is_locked(Path({str(tmp_path / 'lock')!r}))"
    )
    (tmp_path / "lock").touch()
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as looks:
        assert looks.stdout
        assert looks.stdout.readline(), "the other process has failed"
        for _ in range(200):
            with exclusive_lock(tmp_path / "lock", "It runs."):
                pass
        assert looks.poll() is None
        looks.kill()


@pytest.mark.parametrize(
    ("code", "before", "now", "cause"),
    [(-9, 3, 4, "memory"), (-9, 3, 3, "killed"), (-9, None, 4, "killed"), (-9, 3, None, "killed"),
     (-15, 3, 4, "killed"), (1, 3, 4, "killed")],
)  # fmt: skip
def test_a_kill_counted_by_the_kernel_is_out_of_memory(
    code: int, before: int | None, now: int | None, cause: str
) -> None:
    assert ending_of(code, before, now).cause == cause


@pytest.mark.parametrize(("counts", "cause"), [((5, 6), "memory"), ((5, 5), "killed")])
def test_a_trainer_killed_for_memory_has_that_cause(order: TrainingOrder, counts: tuple[int, int], cause: str) -> None:
    """The kill is real and the count is not: filling this machine's memory would kill other processes, too."""
    count = iter(counts)

    def started() -> _Subprocess:
        program = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
        return _Subprocess(subprocess.Popen(program), lambda: next(count))

    (last,) = run_order(order, started, 600)
    assert (last.phase, last.cause) == ("failed", cause)
    assert ("ran out of memory" in last.message) == (cause == "memory")
    assert run_progress(order.folder).cause == cause
    assert [one.text for one in run_log(order.folder, follow=True)] == [f"failed {last.message}"]
