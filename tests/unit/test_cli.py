"""The command line: quick help, one JSON object, and every refusal in one line with exit code 2."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from academy.cli.main import main
from academy.home.identity import claim_home

ROOT = Path(__file__).parents[2]
ALL_FIXED = ("--rank", "8", "--learning-rate", "0.001", "--epochs", "2")
HEAVY = ("torch", "prefect", "mlflow", "transformers")


@dataclass
class Output:
    """The exit code of a command, and what it printed."""

    code: int
    out: str
    err: str


Academy = Callable[..., Output]


@pytest.fixture
def academy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Academy]:
    """Runs the command in this process, in an empty home."""
    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # main sets it; here it is taken back
    logger = logging.getLogger("academy")
    before = (logger.handlers[:], logger.level, logger.propagate)

    def run(*arguments: object) -> Output:
        monkeypatch.setattr(sys, "argv", ["academy", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Output(int(ended.value.code or 0), printed.out, printed.err)

    yield run
    logger.handlers, logger.level, logger.propagate = before


def refusal_of(output: Output) -> str:
    """The one line of an error."""
    assert output.code == 2, output
    assert output.err.count("\n") == 1, output
    assert output.err.endswith((".\n", "?\n"))
    assert "Traceback" not in output.err
    return output.err


def process(*arguments: str, python: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, "-m", "academy.cli.main", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


# Help


def test_help_takes_less_than_half_a_second_of_processor_time() -> None:
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "evolve" in process("--help").stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 0.5


@pytest.mark.parametrize("arguments", [("--help",), ("evolve", "--help")])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    done = process(*arguments, python=("-X", "importtime"))
    assert done.returncode == 0
    assert "Usage" in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert imported.isdisjoint(HEAVY)


def test_every_command_has_a_help_text(academy: Academy) -> None:
    listed = academy("--help").out
    for name in (
        "evolve",
        "lessons",
        "curate",
        "decide",
        "train",
        "examine",
        "promote",
        "rollback",
        "models",
        "status",
    ):
        assert name in listed
        output = academy(name, "--help")
        assert output.code == 0
        assert re.match(rf"Usage: .* {name} (\[OPTIONS\]|COMMAND)", output.out)


# A recipe by hand


@pytest.mark.parametrize("command", ["train", "evolve"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"epochs": 21}', "The recipe's epochs is 21; it must be a whole number, at least 1 and at most 20."),
        ('{"epoch": 2}', "A recipe has the unknown field 'epoch'. Did you mean epochs?"),
        ('{"patience": 2}', "patience needs a dev_share above 0"),
        ("[1]", "recipe.json does not contain a JSON object."),
        ("{", "recipe.json is not valid JSON (unexpected end of data"),
        (None, "recipe.json cannot be read (No such file or directory)."),
    ],
)
def test_recipe_file_is_checked_before_the_home_is_created(
    academy: Academy, tmp_path: Path, command: str, content: str | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / "recipe.json").write_text(content)
    assert sentence in refusal_of(academy(command, "--recipe", "recipe.json"))
    assert not (tmp_path / "home").exists()


def test_dry_run_shows_the_recipe_file_and_single_options_override_it(academy: Academy, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"epochs": 2, "rank": 8, "use_dora": true, "patience": 2, "dev_share": 0.1}')
    usual = json.loads(academy("evolve", "--dry-run", "--json").out)["recipe"]
    options = ("evolve", "--dry-run", "--recipe", tmp_path / "recipe.json", "--epochs", "3")
    assert json.loads(academy(*options, "--json").out)["recipe"] == usual | {
        "epochs": 3, "rank": 8, "alpha": 16, "use_dora": True, "patience": 2, "dev_share": 0.1,
    }  # fmt: skip
    output = academy(*options).out
    assert "Recipe options: rank 8, epochs 3, use_dora True, dev_share 0.1, patience 2.\n" in output
    fits = json.loads(
        academy("habitat", "fit", "--recipe", tmp_path / "recipe.json", "--batch-size", "3", "--json").out
    )
    assert {"rank": 8, "use_dora": True, "epochs": 2, "batch_size": 3}.items() <= fits["recipe"].items()


# An empty home


def test_status_of_an_empty_home_shows_the_base_model_and_the_whole_budget(academy: Academy) -> None:
    output = academy("status", "--json")
    summary = json.loads(output.out)
    assert (output.code, output.err) == (0, "")
    assert (summary["champion"], summary["generation"], summary["adapter"]) == ("base", 0, "base")
    assert (summary["lessons"]["total_lessons"], summary["last_verdict"]) == (0, None)
    assert summary["budget"] == {"spent": 0, "left": 26, "horizon": 26}
    assert academy("status").out.startswith("Champion: base (generation 0)")


def test_lessons_of_an_empty_home_are_listed_and_counted_as_none(academy: Academy) -> None:
    assert json.loads(academy("lessons", "list", "--json").out) == {"lessons": []}
    assert json.loads(academy("lessons", "stats", "--json").out)["total_lessons"] == 0
    assert academy("lessons", "stats").out.startswith("0 lessons and tasks.")
    assert academy("lessons", "list").code == 0


def test_decision_of_an_empty_home_is_not_to_train(academy: Academy) -> None:
    decision = json.loads(academy("decide", "--json").out)["decision"]
    assert not decision["train"]
    assert "0 lessons (minimum 100)" in decision["because"]
    assert json.loads(academy("decide", "--force", "--json").out)["decision"]["forced"]
    assert academy("decide").out.startswith("Training does not pay now.\n")


def test_dataset_of_an_empty_home_is_empty(academy: Academy) -> None:
    dataset = json.loads(academy("curate", "--json").out)
    assert (dataset["examples"], dataset["holdout"]) == (0, 0)


# Lessons by hand and by file


def test_a_long_answer_takes_few_lines_of_the_list_and_a_call_is_shown(academy: Academy, tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Sopot"}'}}
    messages = [{"role": "user", "content": "rain?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    file.write_text(json.dumps({"messages": messages}))
    assert academy("lessons", "import", "--examples", str(file)).code == 0
    academy("lessons", "add", "how?", "go on and on\n" * 500)
    shown = academy("lessons", "list").out
    assert "weather(" in shown
    assert "..." in shown
    assert shown.count("\n") < 40


def test_lesson_is_added_once_and_listed(academy: Academy) -> None:
    first = json.loads(academy("lessons", "add", "how?", "so [it] goes", "--tag", "a", "--author", "Ana", "--json").out)
    second = json.loads(academy("lessons", "add", "how?", "so [it] goes", "--json").out)
    assert first == second
    assert first["lessons"] == 1
    (lesson,) = json.loads(academy("lessons", "list", "--tag", "a", "--json").out)["lessons"]
    assert (lesson["id"], lesson["request"], lesson["author"]) == (first["id"], "how?", "Ana")
    assert "so [it] goes" in academy("lessons", "list").out


def test_import_counts_admitted_known_and_unreadable_lines(academy: Academy, tmp_path: Path) -> None:
    path = tmp_path / "july.jsonl"
    path.write_text('{"situation": "a b", "action": "c", "outcome": "success"}\nnot json\n', encoding="utf-8")
    (first,) = json.loads(academy("lessons", "import", path, "--json").out)["imported"]
    assert (first["batch"], first["admitted"], first["known"]) == ("july", 1, 0)
    assert first["unreadable"][0].startswith(f"{path}:2: not JSON")
    assert Path(first["quarantine"]).is_file()
    output = academy("lessons", "import", path)
    assert "july: 0 imported, 1 already known, 1 unreadable." in output.out
    assert f"{path}:2: not JSON" in output.out


def test_supersede_retires_lessons_with_another_answer_once(academy: Academy) -> None:
    academy("lessons", "add", "where do we deploy?", "to the old cluster")
    output = academy("lessons", "supersede", "Where do we deploy", "to the new cluster", "--json")
    assert json.loads(output.out) == {"retired": 1, "has_right_answer": False}
    assert "No active lesson" in refusal_of(academy("lessons", "supersede", "Where do we deploy", "to the new cluster"))


def test_supersede_names_a_right_answer_that_no_lesson_gives(academy: Academy) -> None:
    academy("lessons", "add", "where do we deploy?", "to the old cluster")
    assert (
        "No lesson with the right answer counts."
        in academy("lessons", "supersede", "where do we deploy", "to the new cluster").out
    )
    academy("lessons", "add", "who signs?", "Bram signs")
    academy("lessons", "add", "Who signs", "Ana signs")
    output = academy("lessons", "supersede", "who signs", "Ana signs").out
    assert "1 lessons with another answer retired." in output
    assert "right answer" not in output


# Refusals


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("lessons", "import", "none.jsonl"), "The file none.jsonl does not exist"),
        (("lessons", "import", "."), ". is not a file"),
        (("lessons", "add", "", "an answer"), "A lesson needs a request and an answer"),
        (("lessons", "add", "a request", "  "), "A lesson needs a request and an answer"),
        (("lessons", "release"), "No lessons are set aside"),
        (("lessons", "release", "--batch", "july"), "No lessons of batch july are set aside"),
        (("lessons", "supersede", "a request", "an answer"), "No active lesson gives another answer to this request"),
        (("curate", "--repo", "."), "is not a git repository"),
        (("curate", "--repo", "none"), "none is not a git repository"),
        (("train", "--dataset", "none"), "Dataset none was not found."),
        (("train",), "The dataset has 0 training examples (minimum 50)."),
        (("train", "--tune-minutes", "5"), "--tune-minutes needs a search. Add --tune N"),
        (("evolve", "--tune-minutes", "5"), "--tune-minutes needs a search. Add --tune N"),
        (("train", "--tune", "3", *ALL_FIXED), "there is nothing to search. Omit --tune"),
        (("evolve", "--tune", "3", *ALL_FIXED), "there is nothing to search. Omit --tune"),
        (("status", "--base-model", "./none"), "The base model folder ./none does not exist"),
        (("decide", "--base-model", "/none/at/all"), "The base model folder"),
        (("curate", "--base-model", "~/none"), "The base model folder"),
        (("status", "--base-model", "."), "does not contain a base model"),
        (("status", "--base-model", "not a name!"), "is not a valid name of a base model"),
    ],
)
def test_error_is_one_line_and_exit_code_two(academy: Academy, arguments: tuple[str, ...], sentence: str) -> None:
    output = academy(*arguments)
    lines = [line for line in output.err.splitlines(keepends=True) if not line.startswith("  ")]  # progress is indented
    assert sentence in refusal_of(Output(output.code, output.out, "".join(lines)))
    assert output.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("models", "get"),
        ("unknown",),
        ("lessons", "unknown"),
        ("evolve", "--rank", "3"),
        ("evolve", "--rank", "many"),
        ("evolve", "--epochs", "0"),
        ("train", "--learning-rate", "0.5"),
        ("evolve", "--learning-rate", "0"),
        ("evolve", "--tune", "0"),
        ("train", "--tune", "-1"),
        ("train", "--tune", "2", "--tune-minutes", "0"),
        ("lessons", "list", "--limit", "0"),
        ("lessons", "add", "only one"),
        ("status", "--no-such-option"),
    ],
)
def test_unknown_command_or_option_out_of_bounds_is_a_usage_error(
    academy: Academy, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACADEMY_MIN_LESSONS", "1000000")  # so that nothing is trained where nothing is refused
    output = academy(*arguments)
    assert output.code == 2
    assert "Traceback" not in output.err
    assert "Error" in output.err
    assert output.out == ""


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("ACADEMY_MIN_LESSONS", "0", "ACADEMY_MIN_LESSONS='0' is not valid"),
        ("ACADEMY_MIN_LESONS", "5", "Did you mean ACADEMY_MIN_LESSONS?"),
        ("ACADEMY_BASE_MODEL", "./none", "The base model folder ./none does not exist"),
        ("ACADEMY_DATABASE_URL", "nonsense", "database"),
        ("ACADEMY_DATABASE_URL", "sqlite:////none/at/all.db", "unable to open database file"),
    ],
)
def test_invalid_setting_is_one_line_and_exit_code_two(
    academy: Academy, monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    output = academy("status")
    assert output.code == 2
    assert sentence in output.err
    assert output.err.count("\n") == 1


def test_read_only_home_is_an_error_of_every_command(
    academy: Academy, monkeypatch: pytest.MonkeyPatch, read_only_disk: Path
) -> None:
    monkeypatch.setenv("ACADEMY_HOME", str(read_only_disk))
    for arguments in (("status",), ("lessons", "add", "a", "b"), ("decide", "--json")):
        assert "cannot be written (Read-only file system)" in refusal_of(academy(*arguments))


def test_full_disk_is_an_error_in_one_line(academy: Academy, monkeypatch: pytest.MonkeyPatch, small_disk: Path) -> None:
    monkeypatch.setenv("ACADEMY_HOME", str(small_disk))
    assert "No space left" in refusal_of(academy("lessons", "add", "a request", "an answer"))


def test_home_that_is_a_file_is_an_error(academy: Academy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "file"))
    assert "cannot be written" in refusal_of(academy("status"))


def test_damaged_database_is_an_error_in_one_line(academy: Academy, tmp_path: Path) -> None:
    claim_home(tmp_path / "home")
    (tmp_path / "home" / "academy.db").write_bytes(b"this is not a database, but it is long enough" * 30)
    assert "file is not a database" in refusal_of(academy("lessons", "stats"))


@pytest.mark.parametrize(
    ("config", "weights", "sentence"),
    [
        ("{}", "pytorch_model.bin", "can run code"),
        ("not json", "model.safetensors", "is not valid JSON"),
        ('{"auto_map": {"AutoModel": "mine.Model"}}', "model.safetensors", "needs its own code"),
    ],
)
def test_base_model_with_code_or_pickled_weights_is_rejected(
    academy: Academy, tmp_path: Path, config: str, weights: str, sentence: str
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(config)
    (tmp_path / "model" / weights).write_bytes(b"")
    assert sentence in refusal_of(academy("status", "--base-model", tmp_path / "model"))


def test_error_with_json_is_one_object_and_the_same_line(academy: Academy) -> None:
    output = academy("lessons", "import", "none.jsonl", "--json")
    error = json.loads(output.out)["error"]
    assert error["kind"] == "InputError"
    assert f"{error['message']} {error['remedy']}\n" == refusal_of(output)


def test_import_with_a_missing_file_imports_nothing(academy: Academy, tmp_path: Path) -> None:
    path = tmp_path / "july.jsonl"
    path.write_text('{"situation": "a b", "action": "c", "outcome": "success"}\n', encoding="utf-8")
    refusal_of(academy("lessons", "import", path, tmp_path / "none.jsonl"))
    assert json.loads(academy("lessons", "stats", "--json").out)["total_lessons"] == 0


def test_evolve_with_an_invalid_path_changes_nothing(academy: Academy, tmp_path: Path) -> None:
    (tmp_path / "july.jsonl").write_text('{"situation": "a b", "action": "c", "outcome": "success"}\n')
    done = process("evolve", "--lessons", "july.jsonl", "--repo", "none", ACADEMY_HOME=str(tmp_path / "home"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "none is not a git repository. Give the folder of a repository, or omit --repo.\n"
    assert json.loads(academy("lessons", "stats", "--json").out)["total_lessons"] == 0


def test_evolve_with_too_few_lessons_starts_no_server(tmp_path: Path) -> None:
    (tmp_path / "july.jsonl").write_text('{"situation": "a b", "action": "c", "outcome": "success"}\n')
    done = process(
        "evolve", "--lessons", "july.jsonl", "--json", python=("-X", "importtime"), ACADEMY_HOME=str(tmp_path / "home")
    )
    result = json.loads(done.stdout)
    assert (done.returncode, result["adapter"], result["promoted"]) == (0, None, False)
    assert "1 lessons (minimum 100)" in result["decision"]["because"]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert imported.isdisjoint(HEAVY)


def test_argument_with_invalid_utf8_is_an_error(academy: Academy) -> None:
    """Bytes that are no UTF-8 reach Python as lone surrogates."""
    refusal_of(academy("lessons", "add", "caf\udce9", "an answer"))


def test_unknown_hub_model_is_an_error_without_a_network(tmp_path: Path) -> None:
    done = process(
        "status", "--base-model", "example/no-such-model",
        ACADEMY_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hf"),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("The base model 'example/no-such-model' could not be found")
    assert done.stderr.count("\n") == 1


def test_curate_with_workers_needs_ray(academy: Academy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "Ray is not installed" in refusal_of(academy("curate", "--workers", "2"))


def test_a_file_without_a_readable_line_is_reported_by_the_loop(
    academy: Academy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "damaged.jsonl"
    file.write_text("not JSON\n" * 12)
    with caplog.at_level("INFO", "academy"):
        output = academy("lessons", "import", str(file))
    assert f"unreadable line {file}:1" in caplog.text
    assert "WARNING" not in caplog.text  # on a terminal the command's own output shows the lines, once
    assert output.code == 2
    assert re.search(r"12 +│ not JSON", output.out)
