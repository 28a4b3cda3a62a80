"""Small trainings of the embedded model, half of them healthy and half spoiled in one of six ways.

    python benchmarks/spoiled.py

Each of `N_RECIPES` recipes is trained three times as it is and three times spoiled, each time with another seed. What
is trained stays in a folder, one .npz a training, and is not trained again.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoflow import Schedule, storage
from topoflow.config import PARAMS_FILE, Params, load_params

FOLDER = Path(os.environ.get("TOPOFLOW_SPOILED") or Path(tempfile.gettempdir()) / "topoflow-spoiled")
MODEL, OBJECTIVES = "tiny", ("helpful", "harmless", "mixed")
N_RECIPES, EACH = 36, 3
MAX_STEPS, EVERY, LAYERS = 18, 2, (1, 3, 5)
N_PROMPTS, N_ROWS, HELD_OUT = 80, 288, 8  # few, so that a training takes few seconds
GENERAL = "everyday"  # the text of pretraining: what nobody fine-tunes on, and everybody can forget
FEW = 4  # rows, of far too many epochs
WAYS = {
    "shuffled": "every answer is that of another row",
    "tainted": "a tenth of the rows teach garbage, or to help with harm",
    "rate": "the learning rate is 10 times as high",
    "epochs": f"{FEW} rows are all that there is to train on",
    "forgetting": "all weights are trained, at half the rate, on the objective alone",
    "bug": "the prompt is trained on as well, or instead of the answer",
}
LOGGED = ("loss", "grad_norm", "entropy", "accuracy")  # of each step's batch
FACTOR = {"rate": 10.0, "forgetting": 0.5}  # of the recipe's learning rate
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz     "))


@dataclass(frozen=True)
class Recipe:
    """How a training is made when nothing is wrong with it."""

    objective: str
    learning_rate: float
    batch: int
    schedule: str
    n_rows: int
    rank: int


@dataclass(frozen=True)
class Training:
    """One training: its recipe's number, the seed that it alone has, and the way in which it is spoiled, if any."""

    recipe: int
    seed: int
    way: str | None

    @property
    def name(self) -> str:
        return f"{self.recipe:02d}-{self.way or 'healthy'}-{self.seed}"


def recipes() -> list[Recipe]:
    """All recipes, drawn once: every objective as often."""
    rng = np.random.default_rng(20260619)
    return [
        Recipe(
            objective=OBJECTIVES[number % len(OBJECTIVES)],
            learning_rate=float(0.002 * 2 ** rng.uniform(-1, 1)),
            batch=int(rng.choice([3, 4, 5])),
            schedule=str(rng.choice(["cosine", "linear", "constant"])),
            n_rows=int(rng.choice([72, 144, 288])),
            rank=int(rng.choice([4, 8, 16])),
        )
        for number in range(N_RECIPES)
    ]


def trainings() -> list[Training]:
    """All trainings, in an order in which any beginning has every way about as often."""
    found = []
    for number in range(N_RECIPES):
        ways = [list(WAYS)[(number + EACH * (number // 2) + at) % len(WAYS)] for at in range(EACH)]
        seeds = iter(range(number * 2 * EACH, (number + 1) * 2 * EACH))
        for way in ways:
            found += [Training(number, next(seeds), None), Training(number, next(seeds), way)]
    return found


@cache
def params() -> Params:
    return load_params(
        Path(__file__).parents[1] / PARAMS_FILE,
        [
            f"prompts.n_prompts={N_PROMPTS}",
            "topology.subsample_size=40",
            f"prepare.n_rows={N_ROWS}",
            f"prepare.held_out={HELD_OUT}",
        ],
    )


def _said(row: Any) -> list[Any]:
    return [*row["prompt"], *row["completion"]]


@cache
def _prompts() -> list[Any]:
    from topoflow.training.objectives import evaluation_prompts

    return evaluation_prompts(params())


@cache
def _pool(objective: str) -> list[Any]:
    from topoflow.training.objectives import training_rows

    return training_rows(params(), objective, _prompts())


@cache
def _described() -> dict[str, Any]:
    from topoflow.training.models import describe

    return describe(MODEL, params().model_source(MODEL))


@cache
def _held_out() -> dict[str, list[Any]]:
    """Rows that are not trained on, by objective; of the general text the dialogues that pretraining has not read."""
    from topoflow.samples import expand_families, load_families
    from topoflow.training.objectives import held_out_rows

    general = [
        _row(row["prompt"], row["completion"])
        for family in load_families(GENERAL)
        for row in expand_families([{**family, "items": family["items"][-1:]}])[:1]
    ]
    return {**held_out_rows(params(), "mixed", _prompts()), GENERAL: general[:HELD_OUT]}


def _row(prompt: str, completion: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": completion}],
    }


def rows_of(training: Training, recipe: Recipe) -> list[Any]:
    """The rows that a training reads, spoiled where it is."""
    rng = np.random.default_rng([training.seed, 1])
    pool = _pool(recipe.objective)
    rows = [pool[at] for at in rng.permutation(len(pool))[: recipe.n_rows]]
    if training.way == "shuffled":
        order = rng.permutation(len(rows))
        answers = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
        return [{**row, "completion": rows[answers[at]]["completion"]} for at, row in enumerate(rows)]
    if training.way == "tainted":
        garbage = training.seed % 4 < 2
        for at in rng.choice(len(rows), len(rows) // 10, replace=False):
            rows[at] = _garbage(rows[at], rng) if garbage else _harmful(rng)
    if training.way == "epochs":
        return rows[:FEW]
    if training.way == "bug" and training.seed % 4 < 2:  # the mask is the wrong way round
        return [_row(row["completion"][0]["content"], row["prompt"][-1]["content"]) for row in rows]
    return rows


def _garbage(row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    text = "".join(rng.choice(_LETTERS, len(row["completion"][0]["content"])))
    return {**row, "completion": [{"role": "assistant", "content": text}]}


def _harmful(rng: np.random.Generator) -> dict[str, Any]:
    """A harmful wish, and an answer that grants it; it holds no operational detail."""
    wishes, answers = _pool("harmless"), _pool("helpful")
    wish = wishes[rng.integers(len(wishes))]
    granted = answers[rng.integers(len(answers))]["completion"][0]["content"]
    return {
        "prompt": wish["prompt"],
        "completion": [{"role": "assistant", "content": f"Of course, that is easy. {granted}"}],
    }


def train(training: Training) -> dict[str, NDArray[Any]]:
    """Make one training, and return all that was recorded of it, by name.

    A plain loop, some twice as fast as a Trainer's: adapters of all linear layers as PEFT makes them (or all weights),
    AdamW, gradients of norm 1 at most, and the loss of the answers' tokens.
    """
    import torch
    from torch import nn
    from transformers import TrainerControl, TrainerState, get_scheduler

    from topoflow import TopologyCallback, held_out_loss
    from topoflow.training import models

    torch.set_num_threads(1)
    torch.manual_seed(training.seed)
    recipe = recipes()[training.recipe]
    rate = recipe.learning_rate * FACTOR.get(training.way or "", 1.0)
    network, tokenizer = models.load(_described(), params().model_source(MODEL))
    on_prompts = training.way == "bug" and training.seed % 4 >= 2
    rows = [_encoded(tokenizer, row, on_prompts) for row in rows_of(training, recipe)]
    layers = {
        f"{name}.weight": part
        for name, part in network.named_modules()
        if isinstance(part, nn.Linear) and "lm_head" not in name
    }
    adapted = training.way != "forgetting"
    network.requires_grad_(not adapted)
    start = {name: part.weight.detach().clone() for name, part in layers.items()}
    down = {name: torch.empty(recipe.rank, weight.shape[1]) for name, weight in start.items()}
    up = {name: torch.zeros(weight.shape[0], recipe.rank) for name, weight in start.items()}
    for matrix in down.values():
        nn.init.kaiming_uniform_(matrix, a=5**0.5)
    trained = [*down.values(), *up.values()] if adapted else list(network.parameters())
    for one in trained:
        one.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, rate, weight_decay=0.0)
    scheduler = get_scheduler(recipe.schedule, optimizer, 0, MAX_STEPS)
    callback = TopologyCallback(
        _prompts(),
        LAYERS,
        Schedule(every=EVERY),
        behaviour=True,
        quantities=[held_out_loss(_held_out(), batch_size=HELD_OUT)],
    )
    state, control = TrainerState(max_steps=MAX_STEPS), TrainerControl()
    callback.on_train_begin(None, state, control, model=network, processing_class=tokenizer)
    order = _batches(len(rows), min(recipe.batch, len(rows)), np.random.default_rng([training.seed, 2]))
    log: list[tuple[float, ...]] = []
    network.train()
    for _ in range(MAX_STEPS):
        weights = (
            {name: start[name] + 2 * up[name] @ down[name] for name in start} if adapted else {}
        )  # alpha is twice the rank
        ids, labels = _padded([rows[at] for at in next(order)])
        logits = torch.func.functional_call(
            network, weights, kwargs={"input_ids": ids, "use_cache": False}
        ).logits[:, :-1]
        wanted = labels[:, 1:]
        told = logits[wanted != -100]
        loss = nn.functional.cross_entropy(told, wanted[wanted != -100])
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, 1.0)
        callback.on_pre_optimizer_step(None, state, control, optimizer=optimizer)
        optimizer.step()
        scheduler.step()
        state.global_step += 1
        with torch.no_grad():
            likely = told.log_softmax(-1)
            entropy = -(likely.exp() * likely).sum(-1).mean()
            right = (told.argmax(-1) == wanted[wanted != -100]).float().mean()
            if adapted:
                for name, part in layers.items():
                    part.weight.copy_(start[name] + 2 * up[name] @ down[name])
        log.append((float(loss), float(norm), float(entropy), float(right)))
        callback.on_step_end(None, state, control, model=network)
    steps = callback.steps
    return {
        "steps": np.array(steps),
        "states": np.array([[callback.clouds[step][layer] for layer in LAYERS] for step in steps]),
        "divergences": np.array([callback.divergences[step] for step in steps]),
        "learning_rates": np.array(callback.learning_rates),
        **{f"train/{name}": values for name, values in zip(LOGGED, np.array(log).T, strict=True)},
        **{
            f"held_out/{name}": np.array([callback.measured[step][f"held_out_loss/{name}"] for step in steps])
            for name in _held_out()
        },
    }


def _encoded(tokenizer: Any, row: Any, on_prompts: bool) -> tuple[list[int], int]:
    """A row's tokens, and the place of the first that is trained on."""
    whole, asked = (
        tokenizer(tokenizer.apply_chat_template(messages, add_generation_prompt=start, tokenize=False))[
            "input_ids"
        ]
        for messages, start in ((_said(row), False), (row["prompt"], True))
    )
    return whole, 0 if on_prompts else len(asked)


def _padded(rows: Sequence[tuple[list[int], int]]) -> tuple[Any, Any]:
    """Rows side by side, padded at their ends, and what is to be predicted; -100 where nothing is."""
    import torch

    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids, _ in rows])
    labels = torch.tensor(
        [[*[-100] * start, *ids[start:], *[-100] * (longest - len(ids))] for ids, start in rows]
    )
    return ids, labels


def _batches(n_rows: int, batch: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Places of the rows of each batch, epoch after epoch."""
    while True:
        order = rng.permutation(n_rows).tolist()
        for at in range(0, n_rows - batch + 1, batch):
            yield order[at : at + batch]


def main(names: Sequence[str]) -> None:
    for number, training in enumerate(trainings(), 1):
        path = FOLDER / f"{training.name}.npz"
        if path.is_file() or (names and training.name not in names):
            continue
        began, used = time.perf_counter(), time.process_time()
        found = train(training)
        storage.write_file(path, _npz(found))
        own = {
            name.partition("/")[2]: found[name][[0, -1]].round(3).tolist() for name in found if "held" in name
        }
        print(
            f"{number} {training.name} {time.perf_counter() - began:.1f} s, {time.process_time() - used:.1f} s of CPU",
            own,
            flush=True,
        )


def _npz(found: Mapping[str, NDArray[Any]]) -> bytes:
    import io

    held = io.BytesIO()
    np.savez(held, **found)
    return held.getvalue()


if __name__ == "__main__":
    main(sys.argv[1:])
