"""Adapters whose every answer shows which adapter made it: each answers "the answer is <colour>" and nothing else.

Any other answer was made by a mix of adapters, or by none; the status 200 does not show that. They are trained on the
seed model in a few seconds, with manifests that `read_adapter` accepts. torch is imported inside functions, because its
import gives a warning, and tests are collected with warnings as errors.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from academy.adapters.adapter import (
    CONFIG,
    FILES,
    MANIFEST,
    Canary,
    Manifest,
    canonical_config,
    digest_of_adapter,
    digests_of_files,
)
from academy.models.base_model import BaseModel, resolve
from academy.models.chat_template import FILE as TEMPLATE_FILE
from academy.models.chat_template import ChatTemplate
from academy.professor.recipe import Recipe
from academy.records import digest_of
from academy.store.files import publish_folder, write_file

COLOURS = ("blue", "red", "green", "gold")
QUESTIONS = (
    "Which colour is it?", "Tell me the answer.", "What do you say?", "What is the answer?", "Please answer me now.",
    "How do I restart the gateway?", "Repeat this word: lantern", "Name a colour.", "Is it raining today?",
    "List the open tickets.", "hello", "Why is the sky dark at night?",
)  # fmt: skip
"""The requests that they are trained on."""
UNSEEN = ("Say something.", "What colour is your house?", "Where is the key of the store?", "Which one is it, then?")
"""Other requests, which they answer in the same way."""
STEPS, BATCH, RATE, RANK = 30, 6, 5e-3, 8
IGNORED = -100


def says(colour: str) -> str:
    """The answer of a colour's adapter to every request."""
    return f"the answer is {colour}"


def train_colours(folder: Path, colours: Sequence[str] = COLOURS) -> dict[str, Path]:
    """Train an adapter for each colour, in folders named by the beginning of their digests. Returns the folders."""
    base = resolve("seed")
    template = ChatTemplate.of(base.path)
    return {colour: _train(base, template, colour, folder) for colour in colours}


def _train(base: BaseModel, template: ChatTemplate, colour: str, folder: Path) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    plain = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32, use_safetensors=True)
    settings = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(plain, settings)
    rows = [template.example(_conversation(question, colour)) for question in QUESTIONS]
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], lr=RATE, weight_decay=0.0
    )
    last = 0.0
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 4, (STEPS - step) / 8)
        batch = [rows[(step * BATCH + n) % len(rows)] for n in range(BATCH)]
        width = max(len(prompt) + len(answer) for prompt, answer in batch)
        pad = template.tokenizer.pad_token_id
        ids = [(p + a + [pad] * width)[:width] for p, a in batch]
        labels = [([IGNORED] * len(p) + a + [IGNORED] * width)[:width] for p, a in batch]
        mask = [([1] * len(p + a) + [0] * width)[:width] for p, a in batch]
        loss = model(
            input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), labels=torch.tensor(labels)
        ).loss  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        last = float(loss.detach())
        optimizer.step()
    return publish_adapter(model.eval(), base, template, folder, [(q, says(colour)) for q in QUESTIONS[:4]], loss=last)


def publish_adapter(
    model: Any,
    base: BaseModel,
    template: ChatTemplate,
    folder: Path,
    canaries: Sequence[tuple[str, str]],
    loss: float = 0.0,
) -> Path:
    """Write a PEFT model's adapter as the trainer does, named by its digest. A canary is a request and its answer."""
    import torch

    draft = folder / "draft"
    model.save_pretrained(draft, safe_serialization=True)
    write_file(draft / CONFIG, canonical_config(orjson.loads((draft / CONFIG).read_bytes()), base.name))
    write_file(draft / TEMPLATE_FILE, template.text.encode())
    digest = digest_of_adapter(draft)
    manifest = Manifest(
        adapter=digest,
        files=digests_of_files(draft),
        base_name=base.name,
        base_digest=base.digest,
        dataset=digest_of("colours"),
        train_digest=digest_of("colours"),
        order=digest,
        template=template.digest,
        special_tokens=template.special_tokens,
        recipe=Recipe(rank=RANK, alpha=2 * RANK),
        trainer="peft",
        versions={},
        threads=torch.get_num_threads(),
        examples=len(QUESTIONS),
        supervised_tokens=len(QUESTIONS),
        steps=STEPS,
        loss=loss,
        canaries=tuple(_canary(model, template, request, answer) for request, answer in canaries),
    )
    place = folder / digest[:16]
    with publish_folder(place) as target:
        for name in FILES:
            (draft / name).replace(target / name)
        write_file(target / MANIFEST, orjson.dumps(manifest.model_dump(mode="json")))
    shutil.rmtree(draft)
    return place


def _canary(model: Any, template: ChatTemplate, request: str, answer: str) -> Canary:
    import torch

    prompt, tokens = template.example([{"role": "user", "content": request}, {"role": "assistant", "content": answer}])
    ids = torch.tensor([prompt])
    with model.disable_adapter(), torch.inference_mode():
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=16,
            do_sample=False,
            pad_token_id=template.tokenizer.pad_token_id,
            eos_token_id=template.tokenizer.eos_token_id,
        )
        base = _logprobs(model, prompt, tokens)
    return Canary(
        prompt=request,
        answer=answer,
        logprobs=_logprobs(model, prompt, tokens),
        base_answer=template.tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip(),
        base_logprobs=base,
    )


def _logprobs(model: Any, prompt: list[int], answer: list[int]) -> tuple[float, ...]:
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    values = torch.log_softmax(logits.float(), dim=-1)[torch.arange(len(answer)), torch.tensor(answer)]
    return tuple(values.tolist())


def _conversation(question: str, colour: str) -> Any:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": says(colour)}]
