"""A version as other tools load it: a PEFT folder, a transformers folder, or files for llama.cpp.

What this module promises: a folder that exists is complete; what was there before is never overwritten; the files
say which base model, adapter and chat template they are made of.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from academy.adapters.adapter import FILES, MANIFEST, Adapter, read_adapter
from academy.errors import AdapterError, InputError
from academy.models.base_model import BaseModel
from academy.models.chat_template import ChatTemplate
from academy.records import Record
from academy.serving.export.gguf import Precision, write_adapter, write_model
from academy.serving.export.gguf_vocabulary import vocabulary
from academy.store.files import publish_folder, write_file

Form = Literal["adapter", "merged", "gguf", "merged-gguf"]
CHECKED = "checked"
TORCH_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


class ExportRequest(Record):
    """What to write. Without a precision a merged model keeps its base's, and a GGUF file has 32 bits."""

    form: Form
    precision: Precision | None = None


class ExportResult(Record):
    """What was written, and what whoever loads it should know."""

    folder: Path
    format: Form
    files: tuple[str, ...]
    notes: tuple[str, ...]


def export_request(form: str, precision: str | None) -> ExportRequest:
    """Check what a person asked for. Raises InputError."""
    if form not in get_args(Form):
        raise InputError(f"There is no format {form}.", f"Choose one of {', '.join(get_args(Form))}.")
    if precision is not None and precision not in get_args(Precision):
        raise InputError(f"There is no precision {precision}.", f"Choose one of {', '.join(get_args(Precision))}.")
    if precision is not None and form == "adapter":
        raise InputError("An adapter is exported as it was trained.", "Leave --precision out.")
    if form.endswith("gguf") and find_spec("gguf") is None:
        raise InputError("The package gguf is not installed here.", "Install the extra `llamacpp`.")
    return ExportRequest.model_validate({"form": form, "precision": precision})


def export(adapter: Adapter, base: BaseModel, to: Path, order: ExportRequest) -> ExportResult:
    """Write a checked adapter of this base model into a new folder.

    Raises InputError where the folder holds something, AdapterError or BaseModelError for what the format cannot
    express, HomeError for a full or unwritable disk.
    """
    if to.is_symlink() or (to.exists() and (not to.is_dir() or any(to.iterdir()))):
        raise InputError(f"{to} is there already.", "Choose a new folder with --to.")
    with publish_folder(to.absolute()) as folder:
        adapter = _own_copy(adapter, base, folder / CHECKED)
        template = ChatTemplate.of(base.path, adapter.path)
        match order.form:
            case "adapter":
                notes = _adapter(adapter, base, template, folder)
            case "merged":
                notes = _merged(adapter, base, template, folder, order.precision)
            case "gguf":
                notes = _gguf(adapter, base, template, folder, order.precision or "f32")
            case "merged-gguf":
                notes = _merged_gguf(adapter, base, template, folder, order.precision or "f32")
        shutil.rmtree(folder / CHECKED)
        write_file(folder / "README.md", _readme(adapter, order.form, notes).encode())
        files = tuple(sorted(path.name for path in folder.iterdir()))
    return ExportResult(folder=to, format=order.form, files=files, notes=notes)


def merged_file(folder: Path, *, base: BaseModel, cache: Path) -> Path:
    """The GGUF file of base and adapter (a folder) as one model, kept by its digest. Raises AdapterError."""
    adapter = read_adapter(folder, base_digest=base.digest)
    place = cache / f"merged-{adapter.digest[:16]}"
    if not place.is_dir():
        with publish_folder(place) as staged:
            _merged_gguf(adapter, base, ChatTemplate.of(base.path, folder), staged, "f16")
    return next(place.glob("*.gguf"))


def _own_copy(adapter: Adapter, base: BaseModel, place: Path) -> Adapter:
    """A copy that is the adapter that was checked: what happens to the home's files from here on changes nothing."""
    place.mkdir()
    for name in (*FILES, MANIFEST):
        shutil.copyfile(adapter.path / name, place / name)
    copied = read_adapter(place, base_digest=base.digest, digest=adapter.digest)
    if copied.manifest != adapter.manifest:
        raise AdapterError(f"The manifest in {adapter.path} was altered just now.", "It is not exported; train again.")
    return copied


def _adapter(adapter: Adapter, base: BaseModel, template: ChatTemplate, folder: Path) -> tuple[str, ...]:
    """The adapter's own bytes and the tokenizer. The manifest goes with them: the folder can be checked anywhere."""
    template.tokenizer.save_pretrained(folder)
    for name in (*FILES, MANIFEST):
        shutil.copyfile(adapter.path / name, folder / name)
    return (f"Load it with peft.PeftModel.from_pretrained on the base model {base.name}.",)


def _merged(
    adapter: Adapter, base: BaseModel, template: ChatTemplate, folder: Path, precision: Precision | None
) -> tuple[str, ...]:
    """Base and adapter as one model."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    own = AutoConfig.from_pretrained(base.path, trust_remote_code=False).dtype or torch.float32
    kind = getattr(torch, TORCH_TYPES[precision]) if precision else own
    # merged in 32 bits and rounded once
    model: Any = AutoModelForCausalLM.from_pretrained(
        base.path, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
    )
    model = PeftModel.from_pretrained(model, str(adapter.path)).merge_and_unload(safe_merge=True)
    model.to(kind).save_pretrained(folder)
    template.tokenizer.chat_template = template.text
    template.tokenizer.save_pretrained(folder)
    return (f"Load it with transformers; its weights are {str(kind).removeprefix('torch.')}.",)


def _gguf(
    adapter: Adapter, base: BaseModel, template: ChatTemplate, folder: Path, precision: Precision
) -> tuple[str, ...]:
    """Base and adapter as two files, under the names by which our own runtime knows them again."""
    model, lora = f"base-{base.digest[:16]}.gguf", f"{adapter.digest}.gguf"
    write_adapter(adapter.path, base.path, folder / lora)
    write_model(base.path, folder / model, name=base.name, template=template.text, precision=precision)
    return (f"Serve it with llama-server -m {model} --lora {lora}", *_splitting(base.path, template))


def _merged_gguf(
    adapter: Adapter, base: BaseModel, template: ChatTemplate, folder: Path, precision: Precision
) -> tuple[str, ...]:
    """Base and adapter as one GGUF file."""
    whole, model = folder / "merged", f"merged-{adapter.digest[:16]}.gguf"
    _merged(adapter, base, template, whole, "f32")
    write_model(whole, folder / model, name=base.name, template=template.text, precision=precision)
    shutil.rmtree(whole)
    return (f"Serve it with llama-server -m {model}", *_splitting(base.path, template))


def _splitting(base: Path, template: ChatTemplate) -> tuple[str, ...]:
    found = vocabulary(base, len(template.tokenizer), template.text)
    if found.alike:
        return ()
    return (
        "llama.cpp does not know how this tokenizer splits text: send token ids (as the Academy's own runtime does), "
        "or some words fall into other tokens than in training.",
    )


def _readme(adapter: Adapter, form: Form, notes: tuple[str, ...]) -> str:
    made = adapter.manifest
    lines = (
        f"Adapter {adapter.digest} as `{form}`.",
        f"Base model: {made.base_name} ({made.base_digest}).",
        f"Dataset: {made.dataset}. Chat template: {made.template}.",
        *notes,
    )
    return "\n\n".join(lines) + "\n"
