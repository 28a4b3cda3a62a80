"""The embedded model: a small Llama that needs no network, made from the seed on one thread.

It is a base model: pretrained briefly, as plain text, on what the bundled samples say, so that
fine-tuning on one objective has something to reorganise. It shows how a study runs; nobody should
conclude anything about language models from it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from topoflow.config import EmbeddedModel
from topoflow.samples import load_samples

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_WINDOW = 128  # tokens of one pretraining sequence


def build_embedded(source: EmbeddedModel, seed: int, folder: Path) -> None:
    """Build, pretrain and save the model and its tokenizer; equal arguments give equal bytes."""
    from transformers import LlamaForCausalLM

    dialogues = _dialogues()
    tokenizer = byte_tokenizer(dialogues, source.vocab_size)
    config = _config(source, tokenizer)
    with one_thread(), torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        _pretrain(model, tokenizer, dialogues, source)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def untrained(source: EmbeddedModel) -> tuple[Any, Any]:
    """The model with random weights and its tokenizer, in a moment: what costs do not tell from the trained one."""
    from transformers import LlamaForCausalLM

    tokenizer = byte_tokenizer(_dialogues(), source.vocab_size)
    with torch.random.fork_rng([]):
        return LlamaForCausalLM(_config(source, tokenizer)).eval(), tokenizer  # type: ignore[no-untyped-call]


def pretraining_seconds(source: EmbeddedModel) -> float:
    """How long the pretraining of `build_embedded` will take here, from a few of its steps."""
    model, tokenizer = untrained(source)

    def spent(steps: int) -> float:
        began = time.perf_counter()
        _pretrain(model, tokenizer, _dialogues(), replace(source, pretrain_steps=steps))
        return time.perf_counter() - began

    with one_thread(), torch.random.fork_rng([]):
        one, four = spent(1), spent(4)  # what is done once, tokenizing above all, is in both
    return one + (source.pretrain_steps - 1) * (four - one) / 3


def pretraining_tokens(source: EmbeddedModel) -> int:
    """How many tokens `build_embedded` trains on."""
    return source.pretrain_steps * source.pretrain_batch_size * _WINDOW


def _config(source: EmbeddedModel, tokenizer: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=source.hidden_size,
        intermediate_size=source.intermediate_size,
        num_hidden_layers=source.n_layers,
        num_attention_heads=source.n_heads,
        num_key_value_heads=source.n_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )


def byte_tokenizer(texts: Iterable[str] = (), vocab_size: int = 259) -> Any:
    """A byte-level tokenizer with a ChatML template: 256 bytes, three special tokens, and pairs merged in `texts`.

    >>> byte_tokenizer()("héllo")["input_ids"].__len__()
    6
    >>> byte_tokenizer(["hello, hello"], 263)("hello, hello")["input_ids"].__len__()
    4
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if vocab_size > 259:
        core.train_from_iterator(
            texts,
            trainers.BpeTrainer(
                vocab_size=vocab_size - 3, initial_alphabet=alphabet, show_progress=False, max_token_length=16
            ),
        )
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, pad_token=PAD, eos_token=END
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [START]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _dialogues() -> list[str]:
    """What the bundled samples say, as plain text."""
    return [
        f"{row['prompt']}\n{row['completion']}"
        for name in ("helpful", "harmless")
        for row in load_samples(name)
    ]


def _pretrain(model: Any, tokenizer: Any, dialogues: list[str], source: EmbeddedModel) -> None:
    """Next-token prediction on windows of the bundled text."""
    stream = torch.tensor(tokenizer("\n\n".join(dialogues))["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=source.pretrain_learning_rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, source.pretrain_learning_rate, total_steps=max(1, source.pretrain_steps), pct_start=0.1
    )
    model.train()
    for _ in range(source.pretrain_steps):
        starts = torch.randint(len(stream) - _WINDOW, (source.pretrain_batch_size,))
        batch = torch.stack([stream[start : start + _WINDOW] for start in starts])
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    model.eval()


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of arithmetic: the order of summation, and so the bytes, depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
