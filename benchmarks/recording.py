"""What recording costs, against the obvious loop with transformers, and what bfloat16 does to what is measured.

    python benchmarks/recording.py [--prompts HH_RLHF_JSONL] [--quick]

Writes benchmarks/recording.md; with `--only NAME` one part of it (costs, behaviour, series, growth, precision), and the
rest stays. The model is SmolLM2-135M-Instruct (`smollm2` of params.yaml, from the package index) on two threads, the
prompts are the first dialogues of HH-RLHF as published, in file order, unless a part says otherwise. Every pass runs
in a process of its own; ways are taken in turns within this run, and of each the median is shown. Peaks are ru_maxrss.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
PROMPTS = HERE.parent.parent / "shared/data/hh-rlhf/harmless-base/test.jsonl.gz"
BATCH, MAX_LENGTH, THREADS = 16, 512, 2
WAYS = {
    "obvious": "obvious loop: `model(**batch, output_hidden_states=True)`, file order",
    "bare": "bare pass of the decoder, batches by length",
    "topoflow": "topoflow, 5 layers",
    "topoflow shallow": "topoflow, the first 3 of the 5 layers (blocks 1 to 15 of 30 run)",
    "topoflow behaviour": "topoflow, 5 layers and next-token distributions",
}


def smollm2(dtype: str = "float32") -> tuple[Any, Any]:
    from topoflow.config import load_params
    from topoflow.training.models import describe, load

    source = load_params(HERE.parent / "params.yaml").model_source("smollm2")
    model, tokenizer = load(describe("smollm2", source), source)
    return model.to(dtype=dtype_of(dtype)), tokenizer


def dtype_of(name: str) -> Any:
    import torch

    return getattr(torch, name)


def random_model(vocabulary: int, depth: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=256, intermediate_size=512, num_hidden_layers=depth,
            num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True, pad_token_id=0,
        )
    ).eval()  # fmt: skip


def real_shape(name: str) -> Any:
    """The shape of a small model of today with random weights: what behaviour costs depends on nothing else."""
    import torch
    from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig

    torch.manual_seed(0)
    if name == "SmolLM2-135M":
        config: Any = LlamaConfig(
            vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
            num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, pad_token_id=0,
        )  # fmt: skip
    else:
        config = Gemma3TextConfig(
            vocab_size=262_144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18,
            num_attention_heads=4, num_key_value_heads=1, head_dim=256, tie_word_embeddings=True, pad_token_id=0,
        )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def token_ids(tokenizer: Any, path: str, n_prompts: int) -> list[list[int]]:
    from topoflow.recording.callback import tokenize_prompts
    from topoflow.training.dialogues import parse_rows
    from topoflow.training.objectives import read_jsonl

    rows = islice(parse_rows(read_jsonl(path), path), n_prompts)
    return tokenize_prompts(tokenizer, [row["prompt"] for row in rows], MAX_LENGTH)


# --- one pass, in a process of its own ------------------------------------------------------------


def obvious(model: Any, prompts: list[list[int]], layers: tuple[int, ...]) -> dict[int, np.ndarray]:
    import torch

    kept: dict[int, list[Any]] = {layer: [] for layer in layers}
    with torch.no_grad():
        for start in range(0, len(prompts), BATCH):
            ids, mask = padded(prompts[start : start + BATCH])
            hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
            rows, last = torch.arange(len(ids)), mask.sum(dim=1) - 1
            for layer in layers:
                kept[layer].append(hidden[layer][rows, last])
    return {layer: torch.cat(rows).float().numpy() for layer, rows in kept.items()}


def padded(prompts: list[list[int]]) -> tuple[Any, Any]:
    import torch

    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(p) for p in prompts], batch_first=True)
    lengths = torch.tensor([len(p) for p in prompts])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def bare(model: Any, prompts: list[list[int]]) -> None:
    import torch

    by_length = sorted(prompts, key=len)
    with torch.no_grad():
        for start in range(0, len(prompts), BATCH):
            ids, mask = padded(by_length[start : start + BATCH])
            model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)


def run_pass(way: str, model: Any, prompts: list[list[int]], layers: tuple[int, ...]) -> Any:
    from topoflow.recording.behaviour import Behaviour
    from topoflow.recording.hidden_states import record_states

    if way == "nothing":
        return None
    if way == "obvious":
        return obvious(model, prompts, layers)
    if way == "bare":
        return bare(model, prompts)
    return record_states(
        model,
        prompts,
        layers[:3] if way.endswith("shallow") else layers,
        pad_token_id=0,
        batch_size=BATCH,
        behaviour=Behaviour(len(prompts)) if way.endswith("behaviour") else None,
    )


def measure(way: str, dtype: str, path: str, n_prompts: int, vocabulary: int, depth: int) -> dict[str, float]:
    """CPU and wall seconds of one pass, and the process's peak in MB."""
    import torch

    from topoflow.recording.hidden_states import resolve_layers

    torch.set_num_threads(THREADS)
    if vocabulary:
        model = random_model(vocabulary, depth)
        lengths = np.random.default_rng(0).integers(32, 128, n_prompts)
        prompts = [np.random.default_rng(i).integers(1, 999, n).tolist() for i, n in enumerate(lengths)]
    else:
        model, tokenizer = smollm2(dtype)
        prompts = token_ids(tokenizer, path, n_prompts)
    layers = resolve_layers(model, 5)
    cpu, wall = time.process_time(), time.perf_counter()
    run_pass(way, model, prompts, layers)
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def apart(*arguments: Any, how: str = "--measure") -> Any:
    command = [sys.executable, __file__, how, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return json.loads(result.stdout.splitlines()[-1])


def in_turns(cases: dict[str, tuple[Any, ...]], repeats: int) -> dict[str, dict[str, list[float]]]:
    taken: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": [], "mb": []} for name in cases}
    for _ in range(repeats):
        for name, arguments in cases.items():
            for what, value in apart(*arguments).items():
                taken[name][what].append(value)
    return taken


# --- behaviour, and a series, in the same process in turns ------------------------------------------


def taken(act: Any) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    act()
    return time.process_time() - cpu, time.perf_counter() - wall


def measure_behaviour(name: str, longest: int, n_prompts: int, repeats: int) -> list[str]:
    """What a checkpoint takes that is compared with two others, beside the decoder alone on the same prompts."""
    import torch

    from topoflow.recording.behaviour import Behaviour
    from topoflow.recording.hidden_states import record_states, resolve_layers

    torch.set_num_threads(THREADS)
    model = real_shape(name)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 999, n).tolist() for n in rng.integers(longest // 8, longest + 1, n_prompts)]
    behaviour, layers, steps = Behaviour(n_prompts), resolve_layers(model, 5), iter(range(99))

    def checkpoint() -> None:
        record_states(model, prompts, layers, pad_token_id=0, batch_size=BATCH, behaviour=behaviour)
        behaviour.finish(next(steps))

    def trained() -> None:
        with torch.no_grad():
            model.get_decoder().norm.weight.mul_(1.01)

    for _ in range(2):  # the first and the one before
        checkpoint()
        trained()
    spent = []
    for _ in range(repeats):
        spent.append((*taken(checkpoint), *taken(lambda: bare(model, prompts))))
        trained()
    middle = np.median(spent, axis=0)
    ratios = np.median([(ours / theirs, w / v) for ours, w, theirs, v in spent], axis=0)
    told = [f"{it:.2f}" for it in (*middle, *ratios)]
    return [name, f"{model.config.vocab_size:,}", f"{longest // 8} to {longest}", *told]


def write_series(folder: Path, n_checkpoints: int) -> None:
    """Checkpoints of a random model in bfloat16, as a training of it saves them."""
    import torch

    from topoflow.embedded import embedded_folder
    from topoflow.training.models import open_tokenizer

    model = real_shape("SmolLM2-135M").to(torch.bfloat16)
    tokenizer = open_tokenizer(embedded_folder("tiny"))
    for number in range(1, n_checkpoints + 1):
        with torch.no_grad():
            for weights in model.parameters():
                weights.add_(torch.randn_like(weights), alpha=1e-3)
        model.save_pretrained(folder / f"checkpoint-{number}")
        tokenizer.save_pretrained(folder / f"checkpoint-{number}")


def measure_series(folder: str, dtype: str) -> list[list[float]]:
    """CPU and wall seconds of one checkpoint: its hash, opening it, and the pass over 16 prompts."""
    import torch

    from topoflow.config import FolderModel
    from topoflow.recording.hidden_states import record_states
    from topoflow.training import models

    torch.set_num_threads(THREADS)
    opening, spent, opened = FolderModel(folder, dtype=dtype), [], []  # type: ignore[arg-type]
    prompts = [[5 + i % 7] * (8 + i) for i in range(BATCH)]
    for number in (1, 2, 3):
        place = Path(folder, f"checkpoint-{number}")
        opened.clear()
        steps = (
            lambda place=place: models.identity(place),
            lambda place=place: opened.append(models.open_model(place, False, opening)),
            lambda: record_states(opened[0], prompts, [30], pad_token_id=0),
        )
        spent.append([taken(step) for step in steps])
    return np.median(spent[1:], axis=0).tolist()  # type: ignore[no-any-return]


# --- tables ---------------------------------------------------------------------------------------


def cost_rows(path: str, n_prompts: int, repeats: int) -> list[list[str]]:
    cases = {way: (way, "float32", path, n_prompts, 0, 0) for way in ("nothing", *WAYS)}
    cases["bfloat16"] = ("topoflow", "bfloat16", path, n_prompts, 0, 0)
    taken = in_turns(cases, repeats)
    idle = statistics.median(taken["nothing"]["mb"])
    rows = []
    for name, words in {**WAYS, "bfloat16": "topoflow, 5 layers, model in bfloat16"}.items():
        found, ours = taken[name], taken["topoflow"]
        ratios = [
            statistics.median(a / b for a, b in zip(found[what], ours[what], strict=True))
            for what in ("cpu", "wall")
        ]
        middle = {what: statistics.median(values) for what, values in found.items()}
        rows.append([
            words, f"{middle['cpu']:.1f}", f"{middle['wall']:.1f}", *(f"{ratio:.2f}" for ratio in ratios),
            f"{middle['mb']:.0f}", f"{middle['mb'] - idle:.0f}",
        ])  # fmt: skip
    return rows


def growth_rows(quick: bool) -> list[list[str]]:
    """What a pass adds to the peak of a process that only holds the model: (vocabulary, depth, prompts)."""
    shapes = [(8_000, 4, 64), (32_000, 4, 64), (128_000, 4, 64)]
    shapes += [(8_000, 8, 64), (8_000, 16, 64), (8_000, 4, 256), (8_000, 4, 1024)]
    rows = []
    for vocabulary, depth, n_prompts in shapes[:4] if quick else shapes:
        layers = max(5, depth)
        peaks = {
            way: apart(way, "float32", "-", n_prompts, vocabulary, layers)["mb"]
            for way in ("nothing", "bare", "topoflow", "obvious")
        }
        rows.append([
            f"{vocabulary:,}", str(layers), str(n_prompts), f"{peaks['nothing']:.0f}",
            *(f"{peaks[way] - peaks['nothing']:.0f}" for way in ("bare", "topoflow", "obvious")),
        ])  # fmt: skip
    return rows


def precision_rows(path: str, n_prompts: int, n_steps: int) -> list[list[str]]:
    """W2 between H1 diagrams of one checkpoint in two precisions, beside what training moves them by."""
    import torch
    from peft import LoraConfig, get_peft_model

    from topoflow.dynamics.cells import cell_diagrams, cell_distances
    from topoflow.recording.hidden_states import record_states, resolve_layers
    from topoflow.topology.point_clouds import subsample_plan

    torch.set_num_threads(THREADS)
    model, tokenizer = smollm2()
    prompts = token_ids(tokenizer, path, n_prompts + 8 * n_steps)
    prompts, training = prompts[:n_prompts], prompts[n_prompts:]
    layers = resolve_layers(model, 5)
    plan = subsample_plan(n_prompts, 64, n_prompts // 2, 0)

    def cells() -> dict[int, Any]:
        clouds = record_states(model, prompts, layers, pad_token_id=0, batch_size=BATCH)
        return {layer: cell_diagrams(cloud, plan) for layer, cloud in clouds.items()}

    found = {"float32": cells()}
    with torch.autocast("cpu", torch.bfloat16):
        found["autocast"] = cells()
    found["bfloat16"] = (model := model.to(torch.bfloat16)) and cells()
    model, _ = smollm2()
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-4)
    for step in range(n_steps):
        ids, mask = padded([ids[-256:] for ids in training[8 * step : 8 * step + 8]])
        model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step + 1 in (1, n_steps):
            found[f"step {step + 1}"] = cells()
    return [
        [str(layer)]
        + [
            f"{cell_distances(found['float32'][layer], found[other][layer], 1).mean():.4f}"
            for other in found
            if other != "float32"
        ]
        for layer in layers
    ]


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def behaviour_rows(repeats: int) -> list[list[str]]:
    cases = [(name, longest) for name in ("SmolLM2-135M", "gemma-3-270m") for longest in (256, 64)]
    return [apart(*case, 16, repeats, how="--behaviour") for case in cases]


def series_rows() -> list[list[str]]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_series(Path(folder), 3)
        for dtype in ("float32", "bfloat16"):
            found = apart(folder, dtype, how="--series")
            rows.append([dtype, *(f"{cpu:.2f} ({wall:.2f})" for cpu, wall in found)])
    return rows


def costs(options: argparse.Namespace) -> str:
    n_prompts, repeats = (32, 1) if options.quick else (128, 3)
    return "\n\n".join([
        f"Written by `benchmarks/recording.py{' --quick' if options.quick else ''}`. SmolLM2-135M-Instruct, "
        f"{n_prompts} prompts of HH-RLHF harmless as published, {BATCH} a batch, the last {MAX_LENGTH} tokens; "
        f"float32, {THREADS} threads of a CPU; medians of {repeats}. Ratios are to topoflow's 5 layers. The last "
        "column is the peak above that of a process that holds the model and does nothing. This is the first "
        "checkpoint, which is compared with none.",
        table(
            ["way", "CPU s", "wall s", "CPU ratio", "wall ratio", "peak MB", "of which the pass"],
            cost_rows(options.prompts, n_prompts, repeats),
        ),
    ])  # fmt: skip


def behaviour(options: argparse.Namespace) -> str:
    header = ["shape", "vocabulary", "tokens of a prompt"]
    header += [f"{whose}, {what} s" for whose in ("checkpoint", "bare pass") for what in ("CPU", "wall")]
    return "\n\n".join([
        "A checkpoint with states of 5 layers and next-token distributions, which are compared with those of the first "
        "checkpoint and of the one before, beside a bare pass of the decoder. Random weights, 16 prompts in one batch, "
        f"float32, {THREADS} threads of a CPU; medians of {1 if options.quick else 3}, taken in turns.",
        table([*header, "CPU ratio", "wall ratio"], behaviour_rows(1 if options.quick else 3)),
    ])  # fmt: skip


def series(options: argparse.Namespace) -> str:
    return "\n\n".join([
        "One checkpoint of SmolLM2's shape with random weights, stored in bfloat16, read before: CPU seconds (wall "
        f"seconds) with {THREADS} threads, medians of 2. The hash of the next is taken while one is recorded. There "
        f"are {BATCH} prompts, of 8 to 23 tokens.",
        table(["computed in", "hash", "opened", "forward pass"], series_rows()),
    ])  # fmt: skip


def growth(options: argparse.Namespace) -> str:
    return "\n\n".join([
        "Llama with random weights, hidden size 256, prompts of 32 to 128 tokens. Process with the model alone, then "
        "what each way adds to its peak; MB.",
        table(
            ["vocabulary", "blocks", "prompts", "model", "bare pass", "topoflow", "obvious"],
            growth_rows(options.quick),
        ),
    ])  # fmt: skip


def precision(options: argparse.Namespace) -> str:
    n_prompts, n_steps = (32, 2) if options.quick else (128, 8)
    return "\n\n".join([
        f"Mean order-2 Wasserstein distance between H1 diagrams of the {n_prompts} prompts in float32 and in another "
        f"precision (64 subsamples of {n_prompts // 2}), beside the distance that LoRA steps (8 dialogues each, AdamW, "
        "learning rate 2e-4) moved them by, all in float32.",
        table(
            ["layer", "bfloat16 autocast", "bfloat16 weights", "1 step", f"{n_steps} steps"],
            precision_rows(options.prompts, n_prompts, n_steps),
        ),
    ])  # fmt: skip


PARTS = {
    "costs": ("# What recording costs", costs),
    "behaviour": ("## What behaviour adds", behaviour),
    "series": ("## What a series of checkpoints costs", series),
    "growth": ("## Memory as the model and the prompts grow", growth),
    "precision": ("## What bfloat16 does to the diagrams", precision),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", default=str(PROMPTS), help="a .jsonl.gz of HH-RLHF")
    parser.add_argument("--quick", action="store_true", help="32 prompts, once")
    parser.add_argument("--only", choices=PARTS, help="one part of the file")
    # how this starts itself
    parser.add_argument("--measure", nargs=6, help=argparse.SUPPRESS)
    parser.add_argument("--behaviour", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--series", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        way, dtype, path, *sizes = options.measure
        print(json.dumps(measure(way, dtype, path, *map(int, sizes))))
        return
    if options.behaviour:
        name, *sizes = options.behaviour
        print(json.dumps(measure_behaviour(name, *map(int, sizes))))
        return
    if options.series:
        print(json.dumps(measure_series(*options.series)))
        return

    path = HERE / "recording.md"
    # what stands there, by its headings
    there = re.split(r"^(?=#{1,2} )", path.read_text() if path.exists() else "", flags=re.MULTILINE)
    known = {text.partition("\n")[0]: text.partition("\n")[2].strip() for text in there}
    sections = []
    for part, (heading, write) in PARTS.items():
        text = write(options) if options.only in (None, part) else known.get(heading, "")
        sections += [heading, text] if text else []
    path.write_text("\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
