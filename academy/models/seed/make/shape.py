"""The seed's shape: special tokens, sizes of vocabulary, model and training rows, and the chat template."""

from __future__ import annotations

PAD, BEGIN, SYSTEM, USER, ASSISTANT, END = SPECIAL = (
    "<|pad|>",
    "<|begin|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)
VOCABULARY, SPACED_WORDS = 3072, 1000
HIDDEN, LAYERS, HEADS, INTERMEDIATE, POSITIONS = 192, 6, 6, 512, 1024
ROW, LONG_ROW = 256, 1024
# A step has 16 rows of 256 tokens: 6 rows of chat, whose answers alone are learned, with double weight; some echo rows
# (see Training.echo); the others are documents. Every eighth step has 4 rows of 1,024 tokens of documents.
ROWS, CHAT_ROWS, LONG_ROWS, LONG_EVERY, ANSWER_WEIGHT = 16, 6, 4, 8, 2
ECHO_ROWS, ECHO_ROWS_LATE, ECHO_UNTIL = 4, 1, 0.6
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\\n' }}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def render(messages: list[dict[str, str]]) -> str:
    """Messages in the chat template, as Python renders it; the export checks that both agree."""
    return "".join(f"<|{message['role']}|>\n{message['content']}{END}\n" for message in messages)
