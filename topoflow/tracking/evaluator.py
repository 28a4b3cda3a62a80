"""`mlflow.models.evaluate(model, prompts, model_type="topology", evaluators="topoflow")`.

The topology of a model as it is, without any training: the hidden states of the prompts' last tokens, their
diagrams, and the 41-number summary of each layer as metrics of the run.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from topoflow.checked import Count, checked, read
from topoflow.errors import InvalidArgument, Words
from topoflow.names import layer_name, metric_name
from topoflow.topology.arrays import as_array

MODEL_TYPE = "topology"
# MLflow takes at most this many metrics in one request.
_BATCH = 1000


@checked
class _Settings:
    """The evaluator_config; what may be Any here is checked where it is used.

    Attributes
    ----------
    tokenizer
        The tokenizer of a transformers model; a pipeline has its own.
    layers
        As for `TopologyCallback`.
    n_subsamples, subsample_size, seed, engine, maxdim
        As for `LiveTopology`; by default all prompts are one subsample when they are fewer than 160.
    batch_size, max_length
        As for `TopologyCallback`.
    column
        The column of prompts, where the data have several.
    """

    tokenizer: Any = None
    layers: Any = 5
    n_subsamples: Any = None
    subsample_size: Any = None
    seed: Any = 0
    engine: Any = "auto"
    maxdim: Literal[1, 2] = 1
    batch_size: Count = 64
    max_length: Count = 512
    column: Any = None

    def plan(self, n_prompts: int) -> npt.NDArray[np.int64]:
        # here, since MLflow imports this module wherever it looks for evaluators, and numba takes long
        from topoflow.topology.point_clouds import subsample_plan

        size = min(160, n_prompts) if self.subsample_size is None else self.subsample_size
        n_subsamples = (64 if size < n_prompts else 1) if self.n_subsamples is None else self.n_subsamples
        return subsample_plan(n_prompts, n_subsamples, size, self.seed)


class TopologyEvaluator:
    """What MLflow asks of a model evaluator.

    The model is a transformers model or pipeline, a function, or a pyfunc model. A function or pyfunc is called
    with the data and returns states: an array or DataFrame of shape (n_prompts, hidden_size), or a mapping of
    layer to such arrays.

    The data are prompts: a list of str, or a DataFrame with one column (or the one that `column` names) of str or of
    lists of messages. A function may be given other data.
    """

    @classmethod
    def can_evaluate(cls, *, model_type: str, evaluator_config: Any, **kwargs: Any) -> bool:
        """Topology alone: MLflow asks every evaluator where none is named."""
        return model_type == MODEL_TYPE

    def evaluate(
        self,
        *,
        model_type: str,
        dataset: Any,
        run_id: str,
        evaluator_config: Mapping[str, Any] | None = None,
        model: Any = None,
        model_id: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Log summaries, a table of them and a picture of the diagrams to the run.

        Returns
        -------
        mlflow.models.EvaluationResult
            `metrics`: `topology/h1_count/layer_03` and so on; missing numbers are left out. `artifacts`:
            `diagrams` and `summaries`.

        Raises
        ------
        mlflow.exceptions.MlflowException
            When the model gives no states, or the data or a setting cannot serve.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        try:
            settings = read(_Settings, evaluator_config or {}, "evaluator_config")
            clouds = _clouds(model, dataset.features_data, settings)
            cells = _cells(clouds, settings)
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        table = _summaries(cells, settings.maxdim)
        metrics = {
            metric_name("topology", name, layer): value
            for layer, summary in table.items()
            for name, value in summary.items()
            if np.isfinite(value)
        }
        items = list(metrics.items())
        for start in range(0, len(items), _BATCH):
            mlflow.log_metrics(dict(items[start : start + _BATCH]), run_id=run_id, model_id=model_id)
        n_prompts = len(next(iter(clouds.values())))
        artifacts = _log_artifacts(run_id, cells, table, n_prompts)
        result: Any = mlflow.models.EvaluationResult  # which has no types
        return result(metrics=metrics, artifacts=artifacts, run_id=run_id)


# --- the states ---------------------------------------------------------------------------------


def _clouds(model: Any, data: Any, settings: _Settings) -> dict[str, npt.NDArray[Any]]:
    """The point cloud of each layer, by the layer's name in metrics."""
    given = _given(model)
    network, tokenizer = _transformer(given)
    if network is not None:
        return _recorded(network, settings.tokenizer or tokenizer, _prompts(data, settings.column), settings)
    if given is None:
        expected = "a transformers model or pipeline, a function or a pyfunc model"
        raise InvalidArgument("model", expected, None)
    return _returned(given(data) if callable(given) else model.predict(data), len(data))


def _given(model: Any) -> Any:
    """What the user gave to `mlflow.models.evaluate`: MLflow wraps anything callable in a pyfunc model."""
    if type(model).__name__ == "_PythonModelPyfuncWrapper":
        predict = inspect.unwrap(type(model.python_model).predict)
        if "fn" in (found := inspect.getclosurevars(predict).nonlocals):
            return found["fn"]
    try:
        raw = model.get_raw_model()
    except (AttributeError, NotImplementedError):
        return model
    return raw if _transformer(raw)[0] is not None else model  # a logged pipeline of transformers


def _transformer(given: Any) -> tuple[Any, Any]:
    """The model and tokenizer of transformers in what was given, each None where there is none."""
    if hasattr(given, "get_decoder"):
        return given, None
    if hasattr(getattr(given, "model", None), "get_decoder"):
        return given.model, getattr(given, "tokenizer", None)
    return None, None


def _prompts(data: Any, column: str | None) -> list[Any]:
    names = list(getattr(data, "columns", range(np.asarray(data).shape[1])))
    if column is None and len(names) > 1:
        raise InvalidArgument("column", "named where the data have several", None, f"they are {names}")
    if column is not None and column not in names:
        raise InvalidArgument("column", f"one of {', '.join(map(str, names))}", column)
    values = data[column or names[0]] if hasattr(data, "columns") else np.asarray(data)[:, 0]
    prompts: list[Any] = values.tolist()
    if wrong := [prompt for prompt in prompts if not isinstance(prompt, str | list)]:
        raise InvalidArgument("data", "prompts, each text or a list of messages", wrong[0])
    return prompts


def _recorded(
    network: Any, tokenizer: Any, prompts: list[Any], settings: _Settings
) -> dict[str, npt.NDArray[Any]]:
    from topoflow.recording.callback import tokenize_prompts
    from topoflow.recording.hidden_states import record_states, resolve_layers

    if tokenizer is None:
        raise InvalidArgument("tokenizer", "given in evaluator_config for a transformers model", None)
    states = record_states(
        network,
        tokenize_prompts(tokenizer, prompts, settings.max_length),
        resolve_layers(network, settings.layers),
        pad_token_id=getattr(tokenizer, "pad_token_id", None) or 0,
        batch_size=settings.batch_size,
    )
    return {layer_name(layer): states[layer] for layer in sorted(states)}


def _returned(states: Any, n_prompts: int) -> dict[str, npt.NDArray[Any]]:
    layers = states if isinstance(states, Mapping) else {"states": states}
    clouds = {}
    for layer, cloud in layers.items():
        name = layer_name(layer) if isinstance(layer, int) else str(layer)
        clouds[name] = as_array(name, cloud)
        if clouds[name].ndim != 2 or len(clouds[name]) != n_prompts or clouds[name].dtype.kind not in "fiu":
            expected = f"one that returns numbers of shape ({n_prompts}, hidden_size), a row for each prompt"
            got = Words(f"{clouds[name].dtype} of shape {clouds[name].shape} for {name}")
            raise InvalidArgument("model", expected, got)
    if not clouds:
        raise InvalidArgument("model", "one that returns the states of at least one layer", Words("none"))
    return clouds


# --- what is made of them -----------------------------------------------------------------------


def _cells(clouds: Mapping[str, npt.NDArray[Any]], settings: _Settings) -> dict[str, Any]:
    from topoflow.dynamics.cells import cell_diagrams

    return {
        layer: cell_diagrams(cloud, settings.plan(len(cloud)), settings.engine, settings.maxdim)
        for layer, cloud in clouds.items()
    }


def _summaries(cells: Mapping[str, Any], maxdim: int) -> dict[str, dict[str, float]]:
    from topoflow.dynamics.cells import summarise_cell
    from topoflow.topology.summaries import summary_names

    return {
        layer: dict(zip(summary_names(maxdim), summarise_cell(cell).tolist(), strict=True))
        for layer, cell in cells.items()
    }


def _log_artifacts(
    run_id: str, cells: Mapping[str, Any], table: Mapping[str, Mapping[str, float]], n_prompts: int
) -> dict[str, Any]:
    import mlflow
    from mlflow.models.evaluation import artifacts as kinds

    from topoflow.figures.persistence import diagrams_figure
    from topoflow.figures.style import png_bytes
    from topoflow.storage import layout

    size = len(next(iter(cells.values()))[0][0])
    title = f"Persistence diagrams: one subsample of {n_prompts} prompts, {size} H0 bars"
    uri = f"runs:/{run_id}/topology"
    of_kind: Any = kinds  # which have no types
    artifacts = {
        "diagrams": of_kind.ImageEvaluationArtifact(f"{uri}/diagrams.png"),
        "summaries": of_kind.CsvEvaluationArtifact(f"{uri}/summaries.csv"),
    }
    with tempfile.TemporaryDirectory() as folder:
        picture, numbers = Path(folder, "diagrams.png"), Path(folder, "summaries.csv")
        picture.write_bytes(png_bytes(diagrams_figure(list(_panels(cells)), title=title)))
        rows = [[layer, *summary.values()] for layer, summary in table.items()]
        layout.write_table(numbers, ["layer", *next(iter(table.values()))], rows)
        mlflow.MlflowClient().log_artifacts(run_id, folder, "topology")
    for artifact in artifacts.values():
        _ = artifact.content  # has MLflow read it: what was not read cannot be saved with the result
    return artifacts


def _panels(cells: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The first, the middle and the last layer, of each its first subsample."""
    names = list(cells)
    for name in dict.fromkeys([names[0], names[len(names) // 2], names[-1]]):
        yield name, cells[name][0]
