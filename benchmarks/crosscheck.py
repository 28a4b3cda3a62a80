"""Numbers of a finished run beside those of other programs, which share no code with topoflow.

    cd STUDY && python .../benchmarks/crosscheck.py --model smollm2 --objective harmless --seed 0

Prints lines for docs/studies/smollm2.md: states of five prompts by plain transformers, the diagrams of one cell by
ripser.py, and one velocity by SciPy's assignment and by POT (`pip install pot`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import ot
import torch
from numpy.typing import NDArray
from peft import PeftModel
from ripser import ripser
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist, pdist, squareform
from transformers import AutoModelForCausalLM, AutoTokenizer

from topoflow.config import load_params
from topoflow.recording.hidden_states import record_states
from topoflow.storage import ACTIVATIONS, DIAGRAMS, layout, open_set
from topoflow.topology.point_clouds import subsample_plan
from topoflow.training.models import locate

FIVE = (10, 35, 60, 85, 110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--objective", required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    run = Path(arguments.model, arguments.objective, f"seed_{arguments.seed}")
    activations = open_set("activations" / run, ACTIVATIONS)
    diagrams = open_set("diagrams" / run, DIAGRAMS)
    check_states(arguments.model, run, activations)
    step, layer = activations.manifest["steps"][1], activations.manifest["layers"][2]
    check_diagrams(activations, diagrams, step, layer)
    check_velocity("results" / run, diagrams, step, layer)


def check_states(name: str, run: Path, activations: Any) -> None:
    """By a forward pass of one prompt at a time, without padding, that keeps all hidden states of all tokens."""
    params = load_params()
    folder = locate(layout.read_model(layout.model_file(name)), params.model[name])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = [
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
        for prompt in layout.read_prompts()
    ]
    tokens = [ids[-params.recording.max_length :] for ids in tokens]
    layers, steps = activations.manifest["layers"], activations.manifest["steps"]
    for step in (steps[0], steps[-1]):
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        if step:
            model = PeftModel.from_pretrained(model, "tuned" / run)
        plain = plain_states(model.eval(), tokens, layers)
        ours = record_states(model, tokens, layers, pad_token_id=tokenizer.pad_token_id, batch_size=16)
        kept = {layer: activations.point_cloud(step, layer) for layer in layers}
        print(f"step {step}, float32 and recorded by topoflow: {largest_error(ours, plain):.1e}")
        model = model.to(torch.bfloat16)
        plain = plain_states(model, tokens, layers)
        print(f"step {step}, bfloat16 and as stored: {largest_error(kept, plain):.1e}")


def plain_states(model: Any, tokens: list[list[int]], layers: list[int]) -> dict[int, NDArray[Any]]:
    states: dict[int, list[NDArray[Any]]] = {layer: [] for layer in layers}
    for prompt in FIVE:
        with torch.inference_mode():
            hidden = model(torch.tensor([tokens[prompt]]), output_hidden_states=True).hidden_states
        for layer in layers:
            states[layer].append(hidden[layer][0, -1].float().numpy())
    return {layer: np.array(rows) for layer, rows in states.items()}


def largest_error(found: dict[int, NDArray[Any]], plain: dict[int, NDArray[Any]]) -> float:
    """The largest relative error of one prompt at one layer, in the L2 norm."""
    return max(
        float(np.linalg.norm(found[layer][prompt] - row) / np.linalg.norm(row))
        for layer in plain
        for prompt, row in zip(FIVE, plain[layer], strict=True)
    )


def check_diagrams(activations: Any, diagrams: Any, step: int, layer: int) -> None:
    """By ripser.py, on distances of SciPy's: the same bars, to the float32 that ripser.py answers in."""
    cloud = activations.point_cloud(step, layer)
    made = diagrams.manifest
    plan = subsample_plan(made["n_prompts"], made["n_subsamples"], made["subsample_size"], made["study_seed"])
    worst = n_bars = 0.0
    for prompts, (h0, h1) in zip(plan, diagrams.diagrams(step, layer), strict=True):
        theirs = ripser(squareform(pdist(cloud[prompts].astype(np.float64))), distance_matrix=True)["dgms"]
        for mine, other in ((h0[np.isfinite(h0[:, 1])], theirs[0][:-1]), (h1, theirs[1])):
            mine, other = (
                np.array(sorted(map(tuple, bars[bars[:, 0] < bars[:, 1]]))) for bars in (mine, other)
            )
            assert mine.shape == other.shape, (mine.shape, other.shape)
            if mine.size:
                worst = max(worst, float(np.abs(mine - other).max() / np.abs(other).max()))
            n_bars += len(mine)
    print(
        f"step {step}, layer {layer}: {n_bars:.0f} bars of {len(plan)} subsamples, largest error {worst:.1e}"
    )


def check_velocity(results: Path, diagrams: Any, step: int, layer: int) -> None:
    """By an assignment over bars and their shadows on the diagonal, and by optimal transport with the same costs."""
    steps = diagrams.manifest["steps"]
    before = steps[steps.index(step) - 1]
    pairs = [
        (one[1], other[1])
        for one, other in zip(diagrams.diagrams(before, layer), diagrams.diagrams(step, layer), strict=True)
    ]
    by_scipy, by_pot = np.mean([distances(one, other) for one, other in pairs], axis=0)
    rows = layout.read_table(results / layout.VELOCITY_FILE, ["layer", "step", "h1_velocity"])
    ours = next(row["h1_velocity"] for row in rows if (row["layer"], row["step"]) == (layer, step))
    print(
        f"H1 velocity at step {step}, layer {layer}: {ours:.12g}; SciPy {by_scipy:.12g}, POT {by_pot:.12g}; "
        f"relative errors {abs(ours - by_scipy) / by_scipy:.1e} and {abs(ours - by_pot) / by_pot:.1e}"
    )


def distances(one: NDArray[Any], other: NDArray[Any]) -> tuple[float, float]:
    """Order-2 Wasserstein, Euclidean ground metric: by SciPy's assignment and by POT."""
    n, m = len(one), len(other)
    costs = np.zeros((n + m, n + m))
    costs[:n, :m] = cdist(one, other) ** 2
    costs[:n, m:] = ((one[:, 1] - one[:, 0]) ** 2 / 2)[:, None]
    costs[n:, :m] = (other[:, 1] - other[:, 0]) ** 2 / 2
    by_scipy = costs[linear_sum_assignment(costs)].sum() ** 0.5
    weights = np.ones(n + m)
    return by_scipy, float(ot.emd2(weights, weights, costs) ** 0.5)


if __name__ == "__main__":
    main()
