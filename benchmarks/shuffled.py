"""Trainings of the embedded model on shuffled answers: real ones, whose labels mean nothing.

All start from the same weights and are seen by the same prompts. Each has a seed of its own, and answers that are
permuted in a way of its own. What is trained once stays in a folder, and is not trained again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoflow import Topology, storage
from topoflow.config import PARAMS_FILE, Params, load_params
from topoflow.dynamics.following import Recorded, Trajectory
from topoflow.topology.point_clouds import subsample_plan

FOLDER = Path(tempfile.gettempdir()) / "topoflow-shuffled"
N, OF, MODEL = 40, "helpful", "tiny"  # trainings, whose answers are shuffled, which model
N_PROMPTS, SHAPE = 256, Topology(16, 100)
_WHOLE = "recorded.json"  # written last
NOTE = f"""\
These are {N} real trainings of the embedded model `{MODEL}`, a small one, by the settings of params.yaml: 48
steps at a cosine rate, 13 twins, five layers, and the margins and rotations of its section `claims`. Each has
the rows of `{OF}` with the answers permuted in a way of its own, and a seed of training of its own. Base and
prompts are the same. There are {N_PROMPTS} prompts and not 750, and {SHAPE.n_subsamples} subsamples of
{SHAPE.subsample_size} and not 64 of 160. Behaviour is not followed.

What one training does is not known, so its verdicts are described and not judged. *Six against six* draws twelve
trainings by lot: six get one label and six another, or six are the controls of the others. So it is false that the
labels differ, and that trainings are early beyond their controls.

All divisions are of the same {N} trainings, of which at most three studies can be made that share none. The bounds
take the divisions for independent: they are about these trainings, and {N} others may have other rates.
"""


@cache
def params() -> Params:
    """The repository's params.yaml, with fewer prompts and an objective for each training.

    How answers are permuted depends on the study's seed, which the prompts and the weights share, and on the
    objective's name: so names differ, and the seed does not.
    """
    root = Path(__file__).parents[1]
    objectives = [f"objective.{name(n)}={{source: shuffled, of: {OF}}}" for n in range(N)]
    # one thread, since trainings run side by side, and threads of several wait for one another
    return load_params(
        root / PARAMS_FILE, [f"prompts.n_prompts={N_PROMPTS}", "finetune.n_threads=1", *objectives]
    )


def name(number: int) -> str:
    return f"shuffled_{number:02d}"


def place(folder: Path, number: int) -> Path:
    """Where a training's states are: never those of other settings or libraries."""
    known = params()
    made_from = {
        "seed": known.seed,
        "sources": known.sources(MODEL, name(number)),
        "training": known.training(name(number)),
        "recording": known.recorded(),
        "versions": {one: version(one) for one in ("torch", "transformers", "trl", "peft")},
    }
    return folder / f"{name(number)}-{storage.sha256(storage.json_bytes(made_from))[:12]}"


def missing(folder: Path) -> list[int]:
    return [n for n in range(N) if not (place(folder, n) / _WHOLE).is_file()]


def describe() -> dict[str, Any]:
    """The model that all trainings start from, built anew: that takes longer than a training."""
    from topoflow.training.models import describe

    return describe(MODEL, params().model_source(MODEL))


def train(folder: Path, description: Mapping[str, Any], number: int) -> None:
    """Make one training and record it, as `topoflow finetune` does."""
    from topoflow import TopologyCallback
    from topoflow.training import models, sft
    from topoflow.training.objectives import evaluation_prompts, training_rows

    known, states = params(), place(folder, number)
    recording, prompts = known.recording, evaluation_prompts(known)
    callback = TopologyCallback(
        prompts,
        recording.layers,
        recording.schedule,
        folder=states,
        batch_size=recording.batch_size,
        max_length=recording.max_length,
        dtype=recording.dtype,
    )
    rows = training_rows(known, name(number), prompts)
    network, tokenizer = models.load(description, known.model_source(MODEL))
    with tempfile.TemporaryDirectory() as work:
        sft.finetune(network, tokenizer, rows, known.finetune, number, Path(work), callback)
    facts = {"steps": callback.steps, "layers": callback.layers, "learning_rates": callback.learning_rates}
    storage.write_file(states / _WHOLE, storage.json_bytes(facts))


def followed(folder: Path, number: int) -> Trajectory:
    """A training as its claims see it; its states are read when they are needed."""
    states = place(folder, number)
    facts = json.loads((states / _WHOLE).read_bytes())

    def cloud(step: int, layer: int) -> NDArray[np.float64]:
        path = states / f"{storage.cell_name(step, layer)}.npy"
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)

    return Trajectory(
        Recorded(
            steps=tuple(facts["steps"]),
            layers=tuple(facts["layers"]),
            cloud=cloud,
            plan=subsample_plan(N_PROMPTS, SHAPE.n_subsamples, SHAPE.subsample_size, params().seed),
            learning_rate=np.array(facts["learning_rates"]),
            seed=params().seed,
        ),
        params().claims,
    )
