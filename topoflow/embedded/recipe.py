"""How the weights of `tiny` were made; `python -m topoflow.embedded.recipe FOLDER` makes them anew, in some minutes.

It is a base model: it has read the bundled text `everyday`, dialogues in simple English, half of them in the chat
template, and as plain text what the objectives `helpful` and `harmless` say. It has read no evaluation prompt, and of
each family of text nothing about its last item.
"""

from __future__ import annotations

import itertools
import logging
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from topoflow.samples import load_families

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = ("everyday", "helpful", "harmless")
SEED = 20260619
THREADS = 2  # the bytes depend on their number
STEPS, BATCH, WINDOW = 1000, 32, 128  # sequences of a batch, tokens of a sequence
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 0.3

logger = logging.getLogger(__name__)


def texts(*names: str) -> tuple[list[str], list[str]]:
    """What `tiny` is pretrained on, and what is held out: of each family of text, all about its last item.

    Each prompt is answered in each way that its family has. Every other dialogue of `everyday` is in the chat template;
    the rest, and all of the objectives' text, is plain.
    """
    kept: list[str] = []
    held: list[str] = []
    for name in names or TEXTS:
        for family in load_families(name):
            for item in family["items"]:
                into = held if item is family["items"][-1] else kept
                pairs = itertools.product(family["prompts"], family["completions"])
                for at, (asked, answered) in enumerate(pairs):
                    plain = name != "everyday" or at % 2 == 0
                    into.append(_dialogue(asked.format_map(item), answered.format_map(item), plain))
    return kept, held


def _dialogue(prompt: str, completion: str, plain: bool) -> str:
    if plain:
        return f"{prompt}\n{completion}{END}\n"
    return f"{START}user\n{prompt}{END}\n{START}assistant\n{completion}{END}\n"


def plain(dialogues: Iterable[str]) -> Iterator[str]:
    """Dialogues without the special tokens, which no merged pair may hold."""
    return (text.replace(START, "").replace(END, "") for text in dialogues)


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


def llama(tokenizer: Any, **sizes: int) -> Any:
    """A Llama for a tokenizer, with random weights; `sizes` are of LlamaConfig, and of `tiny` where not given."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape: dict[str, Any] = {
        "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 5, "num_attention_heads": 4, **sizes
    }  # fmt: skip
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **shape,
    )
    return LlamaForCausalLM(config)


def make(folder: Path, steps: int = STEPS, vocab_size: int = 1024, **sizes: int) -> None:
    """Pretrain the model and save it in bfloat16, with its tokenizer; on one machine always the same bytes."""
    kept, held = texts()
    tokenizer = byte_tokenizer(plain(kept), vocab_size)
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with torch.random.fork_rng([]):
            torch.manual_seed(SEED)
            model = llama(tokenizer, **sizes)
            _pretrain(model, _batches(tokenizer, kept, steps), steps)
        model = model.to(torch.bfloat16)
        model.save_pretrained(folder)
        logger.info("%.2f nats a token of held-out text", loss(model.float(), tokenizer, held))
        tokenizer.save_pretrained(folder)
    finally:
        torch.set_num_threads(threads)


def loss(model: Any, tokenizer: Any, held: Sequence[str]) -> float:
    """Mean cross-entropy, in nats a token, of texts that are read one by one."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for text in held:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
    return total / count


def _batches(tokenizer: Any, kept: Sequence[str], steps: int) -> Iterator[torch.Tensor]:
    """Windows that begin with a dialogue, as a prompt does; texts come in an order drawn anew for each pass."""
    encoded: list[list[int]] = tokenizer(list(kept))["input_ids"]
    order, texts = random.Random(SEED), list[list[int]]()  # noqa: S311 (no secret)
    for _ in range(steps):
        batch = list[list[int]]()
        while len(batch) < BATCH:
            window = list[int]()
            while len(window) < WINDOW:
                texts = texts or order.sample(encoded, len(encoded))
                window += texts.pop()
            batch.append(window[:WINDOW])
        yield torch.tensor(batch)


def _pretrain(model: Any, batches: Iterable[torch.Tensor], steps: int) -> None:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=max(2, steps), pct_start=0.05, cycle_momentum=False
    )
    model.train()
    for step, batch in enumerate(batches):
        found = model(input_ids=batch, labels=batch).loss
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            logger.info("step %d of %d: %.3f nats a token", step, steps, found)
    model.eval()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    make(Path(sys.argv[1]))
