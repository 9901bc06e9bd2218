"""Exports a version for other tools: as a PEFT folder, a transformers folder, or files for llama.cpp.

An exported folder is always complete, existing files are never overwritten, and the export names the base model,
adapter and chat template that it is made of.
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
from academy.serving.export.modelfile import licence, modelfile
from academy.store.files import publish_folder, write_file
from academy.system.installation import install_remedy

Form = Literal["adapter", "merged", "gguf", "merged-gguf", "modelfile"]
NEED_GGUF = ("gguf", "merged-gguf", "modelfile")
CHECKED = "checked"
TORCH_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


class ExportRequest(Record):
    """What to export. Without a precision, a merged model keeps its base model's, and a GGUF file has 32 bits."""

    form: Form
    precision: Precision | None = None


class ExportResult(Record):
    """The exported files, and notes for the person who loads them."""

    folder: Path
    format: Form
    files: tuple[str, ...]
    notes: tuple[str, ...]


def export_request(form: str, precision: str | None) -> ExportRequest:
    """A checked request. Raises InputError for an unknown format or precision, or a missing package."""
    if form not in get_args(Form):
        raise InputError(f"Unknown format {form}.", f"Choose one of {', '.join(get_args(Form))}.")
    if precision is not None and precision not in get_args(Precision):
        raise InputError(f"Unknown precision {precision}.", f"Choose one of {', '.join(get_args(Precision))}.")
    if precision is not None and form == "adapter":
        raise InputError("An adapter is always exported in the precision of its training.", "Remove --precision.")
    if form in NEED_GGUF and find_spec("gguf") is None:
        raise InputError("The package gguf is not installed.", install_remedy("llamacpp"))
    return ExportRequest.model_validate({"form": form, "precision": precision})


def export(adapter: Adapter, base: BaseModel, to: Path, request: ExportRequest) -> ExportResult:
    """Write a checked adapter of this base model into a new folder.

    Raises InputError where the folder is not empty, AdapterError or BaseModelError for anything that the format cannot
    express, and HomeError for a full or unwritable disk.
    """
    if to.is_symlink() or (to.exists() and (not to.is_dir() or any(to.iterdir()))):
        raise InputError(f"{to} already exists.", "Choose a new folder with --to.")
    with publish_folder(to.absolute()) as folder:
        adapter = _own_copy(adapter, base, folder / CHECKED)
        template = base.open_template(adapter.path)
        match request.form:
            case "adapter":
                notes = _adapter(adapter, base, template, folder)
            case "merged":
                notes = _merged(adapter, base, template, folder, request.precision)
            case "gguf":
                notes = _gguf(adapter, base, template, folder, request.precision or "f32")
            case "merged-gguf":
                notes = _merged_gguf(adapter, base, template, folder, request.precision or "f32")
            case "modelfile":
                notes = _modelfile(adapter, base, template, folder, request.precision or "f32")
        notes += _prompt_notes(template)
        shutil.rmtree(folder / CHECKED)
        write_file(folder / "README.md", _readme(adapter, request.form, notes).encode())
        files = tuple(sorted(path.name for path in folder.iterdir()))
    return ExportResult(folder=to, format=request.form, files=files, notes=notes)


def merged_file(folder: Path, *, base: BaseModel, cache: Path) -> Path:
    """The merged GGUF file of base model and adapter (`folder`), cached by digest. Raises AdapterError."""
    adapter = read_adapter(folder, base_digest=base.digest)
    place = cache / f"merged-{adapter.digest[:16]}"
    if not place.is_dir():
        with publish_folder(place) as new_folder:
            _merged_gguf(adapter, base, base.open_template(folder), new_folder, "f16")
    return next(place.glob("*.gguf"))


def _own_copy(adapter: Adapter, base: BaseModel, place: Path) -> Adapter:
    """A checked copy of the adapter, so that later changes of the home's files do not affect the export."""
    place.mkdir()
    for name in (*FILES, MANIFEST):
        shutil.copyfile(adapter.path / name, place / name)
    copy = read_adapter(place, base_digest=base.digest, digest=adapter.digest)
    if copy.manifest != adapter.manifest:
        raise AdapterError(
            f"The manifest in {adapter.path} changed during the export.", "It is not exported; train again."
        )
    return copy


def _adapter(adapter: Adapter, base: BaseModel, template: ChatTemplate, folder: Path) -> tuple[str, ...]:
    """The adapter's own files and the tokenizer, with the manifest, so that the folder can be checked anywhere."""
    template.tokenizer.save_pretrained(folder)
    for name in (*FILES, MANIFEST):
        shutil.copyfile(adapter.path / name, folder / name)
    return (f"Load it with peft.PeftModel.from_pretrained on the base model {base.name}.",)


def _merged(
    adapter: Adapter, base: BaseModel, template: ChatTemplate, folder: Path, precision: Precision | None
) -> tuple[str, ...]:
    """Base model and adapter merged into one model."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    with base.unchanged() as place:
        base_type = AutoConfig.from_pretrained(place, trust_remote_code=False, local_files_only=True).dtype
        # merge in 32 bits and round once
        model: Any = AutoModelForCausalLM.from_pretrained(
            place, dtype=torch.float32, trust_remote_code=False, local_files_only=True, use_safetensors=True
        )
    kind = getattr(torch, TORCH_TYPES[precision]) if precision else base_type or torch.float32
    model = PeftModel.from_pretrained(model, str(adapter.path)).merge_and_unload(safe_merge=True)
    model.to(kind).save_pretrained(folder)
    template.tokenizer.chat_template = template.text
    template.tokenizer.save_pretrained(folder)
    return (f"Load it with transformers; its weights are {str(kind).removeprefix('torch.')}.",)


def _gguf(
    adapter: Adapter, base: BaseModel, template: ChatTemplate, folder: Path, precision: Precision
) -> tuple[str, ...]:
    """Base model and adapter as two files, under the names by which our own runtime recognizes them."""
    model, lora = f"base-{base.digest[:16]}.gguf", f"{adapter.digest}.gguf"
    with base.unchanged() as place:
        write_adapter(adapter.path, place, folder / lora)
        write_model(place, folder / model, name=base.name, template=template.text, precision=precision)
    return (f"Serve it with llama-server -m {model} --lora {lora}", *_splitting(base.path, template))


def _merged_gguf(
    adapter: Adapter, base: BaseModel, template: ChatTemplate, folder: Path, precision: Precision
) -> tuple[str, ...]:
    """Base model and adapter merged into one GGUF file."""
    whole, model = folder / "merged", f"merged-{adapter.digest[:16]}.gguf"
    _merged(adapter, base, template, whole, "f32")
    write_model(whole, folder / model, name=base.name, template=template.text, precision=precision)
    shutil.rmtree(whole)
    return (f"Serve it with llama-server -m {model}", *_splitting(base.path, template))


def _prompt_notes(template: ChatTemplate) -> tuple[str, ...]:
    """What a tool must do that renders the chat template itself, to give the model the prompts of its training."""
    notes = []
    if template.day:
        notes.append(f"The chat template shows the day {template.day} in every prompt, as in the training.")
    frame = template.rendering.frame
    if frame.lead:
        notes.append(
            f"Add {frame.lead!r} to the chat template's generation prompt: the training's prompts end with it."
        )
    if frame.opener:
        notes.append(
            f"Remove {frame.opener!r} from the chat template's generation prompt: the training had no such end."
        )
    if template.rendering.system_in_request:
        notes.append(
            "Put a system message before the first request, with an empty line between them: there is no role."
        )
    return tuple(notes)


def _modelfile(
    adapter: Adapter, base: BaseModel, template: ChatTemplate, folder: Path, precision: Precision
) -> tuple[str, ...]:
    """A merged GGUF file, because Ollama has no adapters any more, and the Modelfile that makes it a model there."""
    text = modelfile(
        f"merged-{adapter.digest[:16]}.gguf", template, context=base.context, licence=licence(adapter.digest)
    )
    _merged_gguf(adapter, base, template, folder, precision)
    write_file(folder / "Modelfile", text.encode())
    return (
        "Make it a model of Ollama: ollama create my-model -f Modelfile (in this folder).",
        *_splitting(base.path, template),
    )


def _splitting(base: Path, template: ChatTemplate) -> tuple[str, ...]:
    tokenizer = vocabulary(base, len(template.tokenizer), template.text)
    if tokenizer.alike:
        return ()
    return (
        "llama.cpp does not know how this tokenizer splits text. Send token ids, as the Academy's own runtime does; "
        "otherwise some words become other tokens than in training.",
    )


def _readme(adapter: Adapter, form: Form, notes: tuple[str, ...]) -> str:
    manifest = adapter.manifest
    lines = (
        f"Adapter {adapter.digest} as `{form}`.",
        f"Base model: {manifest.base_name} ({manifest.base_digest}).",
        f"Dataset: {manifest.dataset}. Chat template: {manifest.template}.",
        *notes,
    )
    return "\n\n".join(lines) + "\n"
