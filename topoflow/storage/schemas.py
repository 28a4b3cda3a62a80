"""What each JSON file that topoflow reads must hold: one schema each, and the first problem named with its place.

Pydantic is imported when the first file is read, for it takes a while. A file may hold more than its schema says: later
versions add to it.
"""

from __future__ import annotations

from functools import cache
from os import PathLike
from typing import Any

from topoflow.errors import InvalidFile
from topoflow.names import (
    H1_PEAK_OVER_SAMPLING_FLOOR,
    H1_SAMPLING_FLOOR,
    H1_UNMATCHED,
    H1_UNMATCHED_OF_OTHER_PROMPTS,
    LAYER_NUMBERS,
    LAYER_STEPS,
    column,
    pooled_name,
)

_POOLED = (
    "concentration", "concentration_expected", "concentration_per_step", "peak_step", "peak_difference", "settled",
    pooled_name("early_share", "H1"), pooled_name("early_share", "H0"),
)  # fmt: skip


def check(
    kind: str, path: str | PathLike[str], value: Any, remedy: str = "make it again with: dvc repro"
) -> Any:
    """Refuse a value that is not what a JSON file of this kind holds.

    Parameters
    ----------
    kind : str
        "trajectory", "pilot" (the numbers of a trajectory.json that planning needs), "comparison", "sensitivity",
        "activations", "diagrams", "model", "checkpoint" (a line), "prompt" (a line) or "quantities".
    path : path
        The file, for the message.
    value : object
        What was read from it.
    remedy : str

    Returns
    -------
    object
        `value` itself.

    Raises
    ------
    InvalidFile
        When it does not fit; the place of the first problem is named.

    Examples
    --------
    >>> check("prompt", "data/prompts.jsonl", [{"role": "user"}])
    Traceback (most recent call last):
    topoflow.errors.InvalidFile: data/prompts.jsonl is not as topoflow writes it: ...
    """
    from pydantic import ValidationError

    from topoflow.checked import problem

    try:
        _adapters()[kind].validate_python(value)
    except ValidationError as error:
        raise InvalidFile(path, f"is not as topoflow writes it: {problem(error, value)}", remedy) from None
    except RecursionError:
        raise InvalidFile(path, "is nested too deep", remedy) from None
    return value


@cache
def _adapters() -> dict[str, Any]:
    from typing import Annotated

    from pydantic import ConfigDict, Field, TypeAdapter, create_model

    config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    def model(title: str, **fields: Any) -> Any:
        """Fields by their types; one with None as its default may be missing."""
        given = {key: of if isinstance(of, tuple) else (of, ...) for key, of in fields.items()}
        make: Any = create_model  # whose types know no fields that are computed
        return make(title, __config__=config, **given)

    number: Any = Annotated[float, Field(allow_inf_nan=False)]
    maybe: Any = number | None
    whole: Any = Annotated[int, Field(ge=0, lt=2**53)]
    maybe_whole: Any = whole | None
    text: Any = Annotated[str, Field(max_length=10_000)]
    sha256: Any = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    layer_name: Any = Annotated[str, Field(pattern="^layer_[0-9]{2,6}$")]

    verdict: Any = Annotated[
        str,
        Field(
            pattern="^(supported|shown absent|cannot tell|explained by [a-z ]+|not supported( beyond [a-z ]+)?)$"
        ),
    ]
    words = dict.fromkeys(("claim", "homology", "rung", "statement", "statistic", "rule"), text)
    outcome: Any = Annotated[list[text], Field(min_length=2, max_length=2)]
    claim: Any = model(
        "Claim", **words, **dict.fromkeys(("value", "low", "high", "p"), maybe), verdict=verdict,
        steps=list[outcome], labels=list[text], beside=(text, ""), why=(text, ""),
    )  # fmt: skip
    layer: Any = model(
        "Layer",
        **{column(h, name): maybe for h in (0, 1) for name in (*LAYER_NUMBERS, "displacement")},
        **{column(h, name): maybe_whole for h in (0, 1) for name in LAYER_STEPS},
        **dict.fromkeys((H1_SAMPLING_FLOOR, H1_PEAK_OVER_SAMPLING_FLOOR), maybe),
        **dict.fromkeys((H1_UNMATCHED, H1_UNMATCHED_OF_OTHER_PROMPTS), (maybe, None)),
        # of a study with maxdim: 2
        **{column(2, name): (maybe, None) for name in (*LAYER_NUMBERS, "displacement")},
        **{column(2, name): (maybe_whole, None) for name in LAYER_STEPS},
    )
    pooled: Any = model(
        "Pooled",
        **dict.fromkeys(_POOLED, maybe),
        far_prompts=(maybe, None),
        __pydantic_extra__=dict[str, maybe],
    )
    early: Any = Annotated[float, Field(ge=-1, le=1)] | None
    of_jitter = [
        pooled_name(name, h) for name in ("moved", "jitter") for h in ("H1", "H0")
    ]  # not in older ones
    of_pilot: Any = model(
        "OfPilot",
        **dict.fromkeys((pooled_name("early_share", h) for h in ("H1", "H0")), early),
        **dict.fromkeys(of_jitter, (maybe, None)),
    )
    order = Annotated[float, Field(ge=1, allow_inf_nan=False)]
    level = Annotated[float, Field(gt=0, lt=1)]
    files = dict[str, sha256]
    layers = Annotated[dict[layer_name, layer], Field(min_length=1)]
    claims = dict[text, claim]
    classes: Any = model("Classes", columns=list[text], rows=list[list[maybe | text]])
    trajectory = model(
        "Trajectory", diagrams=sha256, order=order, first_third=(text, "steps"), level=level, layers=layers,
        pooled=pooled, claims=claims, declared=dict[text, number], exploratory=bool, files=files,
        texts=(dict[text, dict[text, text]], {}), classes=(classes | None, None),
    )  # fmt: skip
    added: Any = model(
        "Added", **dict.fromkeys(("model", "target", "score", "verdict", "sentence"), text),
        **dict.fromkeys(("chance", "simple", "topology", "both", "gain", "low", "high", "p"), number),
        n_runs=whole, n_seeds=whole,
    )  # fmt: skip
    rerun: Any = model("Rerun", run=text, rerun=text, equal=bool, sentence=text)
    comparison = model(
        "Comparison", order=order, first_third=(text, "steps"), level=level, runs=dict[text, pooled], claims=claims,
        exploratory=(bool, False), added=(list[added], []), reruns=(list[rerun], []),
        files=files,
    )  # fmt: skip
    agreement: Any = model(
        "Agreement", name=text, verdict=text, n_agree=whole,
        n_alternatives=whole, flips=dict[text, list[text]],
    )  # fmt: skip
    sensitivity = model(
        "Sensitivity", results=dict[text, sha256], agreements=list[agreement], n_rotations=whole, files=files
    )

    numbers = Annotated[list[whole], Field(min_length=1)]
    cells = list[Annotated[list[whole], Field(min_length=2, max_length=2)]]
    every = {
        "format": text,
        "model": text,
        "objective": text,
        "seed": whole,
        "steps": numbers,
        "layers": numbers,
    }
    every |= {"n_prompts": whole, "prompts_sha256": text, "versions": (dict[text, text], {})}
    activations = model(
        "Activations", **every, weights_sha256=(text | None, None), loss_sha256=(sha256 | None, None),
        learning_rates=(list[number] | None, None), quantities=(dict[text, text], {}),
        hidden_size=(whole | None, None), dtype=(text | None, None), device=(text | None, None),
        compute_dtype=(text | None, None), autocast=(text | None, None), weights_dtype=(text | None, None),
        labels=(list[text] | None, None),
    )  # fmt: skip
    prepared = model("Prepared", metric=text, normalise=text, pca=whole | None)
    diagrams = model(
        "Diagrams", **every, activations=sha256, plan_sha256=sha256, n_subsamples=whole, subsample_size=whole,
        study_seed=int, maxdim=whole, engine=text, complex=text, constant_cells=cells, not_finite=(cells, []),
        prepared=(prepared | None, None),
    )  # fmt: skip
    described = model(
        "Model", name=text, sha256=text, source=text, hidden_size=whole, n_layers=whole,
        revision=(text | None, None), files=(dict[text, text] | None, None),
    )  # fmt: skip
    checkpoint = model(
        "Checkpoint", model=text, seed=whole, step=whole, name=text, kind=text, sha256=(text | None, None)
    )
    message: Any = model("Message", role=text, content=str)
    prompt: Any = Annotated[list[message], Field(min_length=1)]
    labelled: Any = model("Labelled", label=text, prompt=prompt)
    kinds = {
        "trajectory": trajectory, "pilot": model("Pilot", pooled=of_pilot), "comparison": comparison,
        "sensitivity": sensitivity, "activations": activations, "diagrams": diagrams,
        "model": described, "checkpoint": checkpoint, "prompt": prompt | labelled,
        "quantities": dict[text, maybe | text],
    }  # fmt: skip
    return {name: TypeAdapter(kind) for name, kind in kinds.items()}
