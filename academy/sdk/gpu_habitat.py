"""`GPUHabitat`: training jobs under the method names of the seed documents (loop/training_jobs.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from academy.loop.training_jobs import TrainingJobs


class GPUHabitat:
    """Starts trainings and reports their state. They run on a GPU if one may be used, or else on the CPU."""

    def __init__(self, enable_gpu: bool = True, home: Path | None = None) -> None:
        self.jobs = TrainingJobs(enable_gpu=enable_gpu, home=home)

    def run_training_job(
        self,
        dataset_path: str | Path,
        base_model: str,
        output_dir: str | Path | None = None,
        lora_rank: int = 16,
        learning_rate: float = 2e-4,
        num_epochs: int = 3,
        batch_size: int = 4,
        max_seq_length: int = 2048,
        load_in_4bit: bool | None = None,
    ) -> dict[str, Any]:
        """Start a training and return when it runs. Its adapter is written to `output_dir`/adapter.

        Without `output_dir` that is models/<job>/adapter in the home.

        The dataset is a JSONL file in Alpaca, ShareGPT, ChatML or OpenAI format; fewer than 50 examples are trained
        with a warning. `load_in_4bit` None means 4-bit weights on a GPU where bitsandbytes is installed. Raises
        InputError, BaseModelError, and TrainingError if the training cannot start.
        """
        return self.jobs.start(
            dataset_path, base_model, output_dir, lora_rank, learning_rate, num_epochs, batch_size, max_seq_length,
            load_in_4bit,
        )  # fmt: skip

    def get_training_status(self, job_name: str) -> dict[str, Any]:
        """The state of a job: status, logs, progress, and its adapter or error. Raises InputError."""
        return self.jobs.status(job_name)

    def get_gpu_info(self) -> list[dict[str, Any]]:
        """The GPUs of this machine, with memory in bytes."""
        return self.jobs.gpus()

    def stream_job_logs(self, job_name: str) -> Iterator[dict[str, Any]]:
        """Yield the log of a job until it ends: line, time (ISO 8601), text. Raises InputError for an unknown job."""
        return self.jobs.follow_log(job_name)

    def cleanup_job(self, job_name: str) -> None:
        """Stop a job of this object if it runs, and remove its checkpoints. Events, log and adapter stay.

        Raises InputError if another process runs the job.
        """
        self.jobs.clean_up(job_name)
