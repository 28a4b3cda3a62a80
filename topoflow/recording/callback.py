"""The hook that records hidden states while any Hugging Face Trainer trains."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import TrainerCallback

from topoflow.config import Topology
from topoflow.config.pooling import Kind, Pooling
from topoflow.config.schedule import Schedule
from topoflow.dynamics.labels import check_labels
from topoflow.errors import InvalidArgument, InvalidFile
from topoflow.names import H1_SAMPLING_FLOOR, metric_name
from topoflow.processes import in_background
from topoflow.recording.behaviour import Answered, Answers, Behaviour, to_compare
from topoflow.recording.hidden_states import (
    batches_by_length,
    in_order,
    input_device,
    noting_how,
    record_batches,
    resolve_layers,
)
from topoflow.recording.learning_rates import rates_ahead, rates_so_far
from topoflow.recording.live import LiveTopology, below_floor
from topoflow.recording.ranks import (
    check_parallelism,
    gathered,
    on_each,
    on_first,
    rank_and_size,
    sharded_modules,
    share,
    unwrapped,
)
from topoflow.recording.sender import Sender
from topoflow.storage import (
    array_bytes,
    behaviour_name,
    cell_name,
    json_bytes,
    quantities_name,
    read_quantities,
    recorded_names,
    roots_name,
    sha256,
    write_file,
)
from topoflow.storage.files import read_bytes
from topoflow.topology.point_clouds import check_whole_number

if TYPE_CHECKING:
    from topoflow.recording.quantities import Measured, Quantity

logger = logging.getLogger(__name__)

# Seconds that a training that is done waits for MLflow to take what is left.
_PATIENCE = 30.0

Messages = Sequence[dict[str, str]]
# of some prompts, by number: states by layer (n, hidden_size)
_Part = tuple[npt.NDArray[np.int64], dict[int, npt.NDArray[Any]]]
DTYPES = ("float16", "float32", "float64")  # in which states can be recorded
TEMPLATES = ("auto", "chat", "hh", "plain")  # how messages become text
_PIECE = 16  # answers that each rank sends to rank 0 at once: 16 MB of a vocabulary of a quarter of a million tokens
NOTE_FILE = "recording.json"  # beside recorded states, until a training has ended: what they are of


class TopologyCallback(TrainerCallback):
    """Record hidden states of fixed prompts, by default of their last token, at checkpoints of a training.

    Recording leaves the training as it was: losses and final weights are equal to the bit with and
    without the callback. Each `train()` is recorded from its own beginning; what an earlier one left in
    the attributes is dropped then. Only a training that is resumed (`resume_from_checkpoint`) keeps the earlier
    checkpoints that its `folder` holds whole, and goes on from the step at which it is resumed, best a recorded
    one; on as many ranks and with whatever `batch_size` you like, but with the same prompts, tokenizer, `max_length`,
    `dtype`, `pooling` and `position`, or it is refused. Without a folder, "the first checkpoint" is the one at which it
    is resumed.

    In distributed training (DDP, FSDP2) the prompts are shared among the ranks, and rank 0 alone compares answers,
    writes, keeps, computes topology, logs and calls `on_record`: on the others `clouds`, `divergences`, `metrics` and
    `floors` stay empty. When one rank fails, all do. FSDP1, DeepSpeed's ZeRO-3 and tensor, context and sequence
    parallelism are refused.

    States are those of the forward pass that trains: under `bf16=True` with its autocast, of a 4-bit base model with
    what it dequantizes to. The pass ends at the deepest layer, unless FSDP or `behaviour` needs all of it.

    Parameters
    ----------
    prompts : sequence of str, or of lists of messages
        The evaluation prompts, the same at every checkpoint. Messages (`{"role", "content"}`) become text
        by `template`.
    layers : int or sequence of int
        A number of layers spaced evenly over 1..L, or the layers themselves (0 is the embedding, L the
        last block after the final norm). Under a chat template all prompts end in the same token, so
        layer 0 is one and the same point for all of them and says nothing.
    schedule : Schedule
        The checkpoints, in optimiser steps; step 0 and the last step are always among them. The Trainer's
        scheduler says where twins that are even in learning rate go. If it cannot know its rates beforehand
        (ReduceLROnPlateau), twins are even in steps, and a warning says so.
    folder : path, optional
        Where to write one .npy a checkpoint and layer (`step_000016/layer_03.npy`) as soon as it is
        recorded. Without it the clouds are kept in memory, in `clouds`.
    batch_size : int
        Prompts a forward pass. A batch that does not fit into memory is halved, and stays so; under FSDP it ends the
        training.
    batch_tokens : int, optional
        Tokens a forward pass at most, those of padding among them. By default, on an accelerator, those of a batch in
        training, where the Trainer's arguments have a `max_length` (per_device_train_batch_size * max_length): a pass
        without gradients needs less memory than training on as many. Step 0 is recorded before the first step, so
        that a pass that is too large is found out then.
    max_length : int
        Tokens kept of a prompt: its end, where the model is about to answer.
    dtype : str
        The dtype of the recorded states: "float16", "float32" or "float64".
    template : str
        How messages become text. "chat" is the tokenizer's chat template, "hh" the form of Anthropic's HH-RLHF
        ("Human: ... Assistant:"), "plain" their contents alone; "auto" is "chat" where there is one, and else "hh".
        Give base and instruct models the same: the template alone changes the shape of a cloud.
    pooling : str
        What a point is: "last", the hidden state of one token; "mean", the mean over all tokens of the prompt, those of
        the template among them. `behaviour` is always that after the last token.
    position : int
        Which token, counted from the end: -1 is the last, -2 the one before. A mean has none, and a prompt without a
        token there is refused before training.
    topology : bool or Topology
        Compute summaries and velocities of each checkpoint at once, keep them in `metrics`, and log them to the
        MLflow run that is active, if any: from a thread, so that MLflow that does not answer costs a warning and, at
        the end, half a minute at most. True stands for 64 subsamples of 160 prompts.
        They too are computed in a thread while the training goes on, and are known at the next checkpoint, which waits
        for them, or at the end. An error there is raised at the next checkpoint, once its states are kept. The
        training itself waits where `stop_when_stable` or `on_record` needs them at once, and where the Trainer has
        `dataloader_num_workers`, since a process must not be forked in the midst of linear algebra.
    behaviour : bool
        Compare the next-token distributions of the prompts with those of the checkpoint before and of the first
        (Jensen-Shannon divergence, nats), and keep the roots of their probabilities, which any two checkpoints can be
        compared by.
    seed : int
        Chooses the subsample plan and what is kept of answers.
    stop_when_stable : int, optional
        End training after this many checkpoints in a row at which the H1 velocity of every recorded layer was below
        its floor; needs `topology`. By default training is never ended.

        The floor is a yardstick and no test: the mean distance between the diagrams of two disjoint sets of
        prompts, as large as a subsample or half the prompts, at the first checkpoint. A velocity below it says
        that training since the checkpoint before changed the topology by less than other prompts would have. It
        does not say that nothing changed: velocities compare the same prompts, and can be real and far smaller.
        Nor are they per step: checkpoints that are close together (twins first of all), and a warm-up, make them
        small. Choose a schedule of even distances, such as `Schedule(every=8)`, and look at the velocities of a run
        that was not stopped before you trust it.
        What it costs was measured on 108 healthy trainings of `tiny` of 18 steps, a checkpoint every 2
        (benchmarks/advice.md): velocities were below the floor almost from the first on, so that it ended each nearly
        as early as it can. With 3 it saved 62 % of the steps, and lost 0.014 nats a token of held-out loss (95 %: 0.010
        to 0.018), nearly a quarter of the 0.063 that training to the end gained; with 1 it saved 85 % and lost 0.027.
        A rule on held-out loss itself saved 20 % and lost 0.002. So use it to end what is surely done, with a large
        number, and not to find out when it is.
        Where a layer has no H1 bars its floor is 0, and training goes on.
    on_record : callable, optional
        Called with the step after each recording.
    quantities : sequence of Quantity
        Numbers to measure of the model at each checkpoint beside its states, such as `topoflow.held_out_loss`; they go
        to the MLflow run that is active, as `topology` says.
    labels : sequence of str, bool or int, optional
        The class of each prompt, checked before training, for `topoflow.follow(callback.clouds,
        labels=callback.labels)`.

    Attributes
    ----------
    steps : list of int
        The checkpoints recorded so far.
    learning_rates : list of float
        The rate of each optimiser step so far, from step 1 on, as the optimiser used it; NaN for steps before a
        training was resumed, where neither its log nor its scheduler tells.
    layers : tuple of int
        The layers recorded, known once training has begun.
    clouds : dict
        step -> layer -> ndarray of shape (n_prompts, hidden_size), when there is no `folder`.
    divergences : dict
        step -> ndarray of shape (2, n_prompts), nats, from the checkpoint before and from the first, when
        `behaviour` is asked for and there is no `folder` (with one: `step_000016/behaviour.npy`).
    roots : dict
        step -> ndarray of shape (n_prompts, n), roots of next-token probabilities (`topoflow.recording.sketch`),
        likewise (`step_000016/roots.npy`).
    metrics : dict
        step -> name in MLflow -> value, when `topology` is asked for. Velocities are order-2 Wasserstein
        distances, Euclidean ground metric, since the checkpoint before; means over subsamples.
    measured : dict
        step -> name in MLflow -> number or text of `quantities` (with a folder also in `step_000016/quantities.json`).
    floors : dict
        layer -> the floor of `stop_when_stable`, in filtration distance, when that is asked for; in `metrics` of the
        first step.
    stopped_at : int or None
        The step at which `stop_when_stable` ended training.
    computed_as : dict
        `device` (kind and make), `compute_dtype` and `autocast` of the forward passes that made the states: runs
        that differ in them differ by rounding too.

    Examples
    --------
    >>> callback = TopologyCallback(["How do I boil an egg?", "Name a river."], layers=2)
    >>> callback.steps
    []

    Then `trainer.add_callback(callback)` and `trainer.train()`.
    """

    def __init__(
        self,
        prompts: Sequence[str] | Sequence[Messages],
        layers: int | Sequence[int] = 5,
        schedule: Schedule = Schedule(),  # noqa: B008 (frozen)
        *,
        folder: str | Path | None = None,
        batch_size: int = 64,
        batch_tokens: int | None = None,
        max_length: int = 512,
        dtype: str = "float32",
        topology: bool | Topology = False,
        behaviour: bool = False,
        seed: int = 0,
        stop_when_stable: int | None = None,
        on_record: Callable[[int], None] | None = None,
        quantities: Sequence[Quantity] = (),
        template: str = "auto",
        pooling: Kind = "last",
        position: int = -1,
        labels: Sequence[object] | None = None,
    ) -> None:
        if isinstance(prompts, str) or len(prompts) < 2:
            raise InvalidArgument("prompts", "a list of at least 2 (a point cloud)", prompts)
        batch_size = check_whole_number("batch_size", batch_size, at_least=1)
        if batch_tokens is not None:
            batch_tokens = check_whole_number("batch_tokens", batch_tokens, at_least=1)
        max_length = check_whole_number("max_length", max_length, at_least=1)
        names = [quantity.name for quantity in quantities]
        if len(set(names)) < len(names):
            raise InvalidArgument("quantities", "such that each has a name of its own", names)
        if dtype not in DTYPES:
            raise InvalidArgument("dtype", f"one of {', '.join(DTYPES)}", dtype)
        if template not in TEMPLATES:
            raise InvalidArgument("template", f"one of {', '.join(TEMPLATES)}", template)
        if stop_when_stable is not None:
            stop_when_stable = check_whole_number("stop_when_stable", stop_when_stable, at_least=1)
        if stop_when_stable is not None and topology is False:
            raise InvalidArgument("topology", "asked for where stop_when_stable is", False)
        self.labels = None if labels is None else check_labels(labels, len(prompts))
        self.prompts = prompts
        self.schedule = schedule
        self.folder = None if folder is None else Path(folder)
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.max_length = max_length
        self.dtype = dtype
        self.template = template
        self.pooled = Pooling(pooling, position)
        self.on_record = on_record
        self.steps: list[int] = []
        self.learning_rates: list[float] = []
        self.layers: tuple[int, ...] = ()
        self.clouds: dict[int, dict[int, npt.NDArray[np.floating[Any]]]] = {}
        self.divergences: dict[int, npt.NDArray[np.float64]] = {}
        self.roots: dict[int, npt.NDArray[np.float32]] = {}
        self.metrics: dict[int, dict[str, float]] = {}
        self.measured: dict[int, Measured] = {}
        self.quantities = tuple(quantities)
        self.stop_when_stable = stop_when_stable
        self.floors: dict[int, float] = {}
        self.stopped_at: int | None = None
        self.computed_as: dict[str, str | None] = {}
        self._n_stable = 0  # checkpoints in a row
        self._following: Future[None] | None = None  # the topology of the last checkpoint
        self._waits = False  # for it
        self.behaviour = behaviour
        self._behaviour: Behaviour | None = None
        self._topology, self._seed = topology, seed
        self._live = _live_topology(topology, len(prompts), seed)  # already here, to refuse a bad one early
        self._requested_layers = layers
        self._token_ids: list[list[int]] = []
        self._pad_token_id = 0
        self._batches: list[npt.NDArray[np.int64]] = []
        self._device = torch.device("cpu")  # which compares the answers of all ranks
        self._sender: Sender | None = None  # to the MLflow run in which the training runs
        self._due: frozenset[int] = frozenset()
        self._processing_class: Any = None
        self._found: list[int] = []  # checkpoints of the interrupted part of a training that is resumed
        self._computed_before: dict[str, str | None] = {}  # and how that part was computed

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        tokenizer = kwargs.get("processing_class")
        model = unwrapped(kwargs["model"])
        on_each(lambda: self._begin(model, tokenizer, self.batch_tokens or _tokens_of_training(args)))
        self._waits = bool(self.stop_when_stable or self.on_record or args.dataloader_num_workers)
        scheduler = kwargs.get("lr_scheduler")
        self._due = self._steps_to_record(state, scheduler)
        self.learning_rates = []
        if scheduler is not None:  # else these are checkpoints of a finished training
            self.learning_rates = rates_so_far(state.log_history, scheduler, state.global_step)
        self._found = on_first(lambda: self._take_up(state.global_step))
        self.steps = [step for step in self._found if step < state.global_step]
        self._record(state.global_step, model)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.learning_rates.append(float(kwargs["optimizer"].param_groups[0]["lr"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        last = state.global_step >= state.max_steps or control.should_training_stop
        if last or state.global_step in self._due:
            self._record(state.global_step, kwargs["model"])
        if self.stop_when_stable and self._n_stable >= self.stop_when_stable and not last:
            self.stopped_at = state.global_step
            control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_training_stop:  # as early stopping asks for it, after the step's own events
            self._record(state.global_step, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not args.load_best_model_at_end:  # else the weights are no longer those of the last step
            self._record(state.global_step, kwargs["model"])
        try:
            on_first(self._settle)
        finally:
            self._end_logging()

    def _end_logging(self) -> None:
        if self._sender is not None:
            self._sender.close(_PATIENCE)
        self._sender = None

    def _begin(self, model: Any, tokenizer: Any, batch_tokens: int | None = None) -> None:
        check_parallelism(model)
        if self._following is not None:
            self._following.exception()  # waits, before what it writes to is emptied
            self._following = None
        self._end_logging()  # of a training that ended in an error, perhaps of another MLflow run
        self.steps, self.clouds, self.divergences, self.roots, self.metrics = [], {}, {}, {}, {}
        self.measured = {}
        self._processing_class = tokenizer
        self.floors, self.stopped_at, self._n_stable = {}, None, 0
        self._computed_before = {}
        self._behaviour = None
        self._live = _live_topology(self._topology, len(self.prompts), self._seed)
        self.layers = resolve_layers(model, self._requested_layers)
        self._token_ids = tokenize_prompts(tokenizer, self.prompts, self.max_length, self.template)
        self.pooled.check_lengths([len(ids) for ids in self._token_ids], "prompts")
        self._pad_token_id = (
            getattr(tokenizer_in(tokenizer), "pad_token_id", None) or 0
        )  # masked, so any will do
        self._batches = self._own_batches(batch_tokens)
        if self.behaviour and rank_and_size()[0] == 0:  # at last: what is refused leaves no folder
            place = self.folder and self.folder / "behaviour"
            self._behaviour = Behaviour(len(self.prompts), place, self._seed)

    def _steps_to_record(self, state: Any, scheduler: Any) -> frozenset[int]:
        """The steps at which to record, the same on all ranks."""
        if state.global_step >= state.max_steps:  # nothing is trained
            return frozenset()
        rates = rates_ahead(scheduler, state.max_steps) if self.schedule.needs_learning_rates else None
        if self.schedule.needs_learning_rates and rates is None and rank_and_size()[0] == 0:
            logger.warning(
                "the learning rates of %s are not known beforehand; twins are spaced evenly in steps",
                type(scheduler).__name__,
            )
        return frozenset(self.schedule.checkpoints(state.max_steps, rates))

    def _own_batches(self, batch_tokens: int | None) -> list[npt.NDArray[np.int64]]:
        """This rank's share of the prompts, in batches."""
        rank, size = rank_and_size()
        batch_size = self.batch_size
        if size > 1:  # as many batches as keep all ranks busy to the end
            rounds = math.ceil(len(self.prompts) / (size * batch_size))
            batch_size = math.ceil(len(self.prompts) / (size * rounds))
        return share(batches_by_length(self._token_ids, batch_size, batch_tokens), rank, size)

    def _take_up(self, step: int) -> list[int]:
        """The whole checkpoints that the folder holds up to `step`, at which training is resumed; none at step 0.

        The one at `step` is recorded again all the same, for what the next is compared with, but not written.
        """
        if self.folder is None or step == 0:
            return []
        found = []
        for earlier in sorted(int(path.name[len("step_") :]) for path in self.folder.glob("step_[0-9]*")):
            names = recorded_names(earlier, self.layers, self.behaviour, bool(self.quantities))
            if earlier <= step and all((self.folder / name).is_file() for name in names):
                found.append(earlier)
        if found:
            self._check_note(self.folder)
            self._go_on(self.folder, found, step)
        return found

    def _check_note(self, folder: Path) -> None:
        """Refuse to go on with states of other prompts, of other tokens of them or of another precision."""
        path, now = folder / NOTE_FILE, self._note()
        try:
            # an older topoflow knew the last token alone
            held = {"pooling": Pooling().words, **json.loads(read_bytes(path))}
            self._computed_before = dict(held["computed_as"])
        except (OSError, ValueError, KeyError, TypeError):
            held = {}
        for key, what in (
            ("token_ids_sha256", "prompts (or tokenizer, or max_length)"),
            ("dtype", "dtype"),
            ("pooling", "pooling (or position)"),
        ):
            if held.get(key) != now[key]:
                raise InvalidFile(
                    path,
                    f"must describe states of the same {what} as the resumed training, and does not (now {now[key]}, "
                    f"then {held.get(key)})",
                    "give the callback the arguments that it had, or another folder",
                )

    def _note(self) -> dict[str, Any]:
        return {
            "token_ids_sha256": sha256(json_bytes(self._token_ids)),
            "dtype": self.dtype,
            "pooling": self.pooled.words,
            "computed_as": self.computed_as,
        }

    def _go_on(self, folder: Path, found: Sequence[int], step: int) -> None:
        """Give what compares checkpoints the first one and the last one before `step`."""
        if self.quantities:
            for earlier in found:
                numbers = read_quantities(folder / quantities_name(earlier)).items()
                self.measured[earlier] = {name: math.nan if n is None else n for name, n in numbers}
        first, before = found[0], max((earlier for earlier in found if earlier < step), default=found[0])
        if self._behaviour is not None:
            self._behaviour.resume(first, before)
        if self._live is not None:
            for earlier in dict.fromkeys((first, before)):
                names = {layer: folder / f"{cell_name(earlier, layer)}.npy" for layer in self.layers}
                clouds = {layer: np.load(path, allow_pickle=False) for layer, path in names.items()}
                self._live.update(clouds)
                if self.stop_when_stable and earlier == first:
                    self.floors = self._live.sampling_floors(clouds)

    def _record(self, step: int, model: Any) -> None:
        if step in self.steps:
            return
        model = unwrapped(model)
        # an error within FSDP's own collectives cannot be told to ranks that wait in them: it ends the process
        part, answers = self._part(model) if sharded_modules(model) else on_each(lambda: self._part(model))
        parts = gathered(part)
        if answers is not None:
            self._hand_over(answers)
        measured = self._measure(model)
        self.steps.append(step)
        self._n_stable = on_first(lambda: self._take(step, parts, measured))

    def _part(self, model: Any) -> tuple[_Part, Answers | None]:
        """What this rank records of a checkpoint, and the answers that rank 0 is still to be given."""
        prompts = np.concatenate(self._batches)
        self._device = input_device(model)
        answers = Answers(len(prompts)) if self.behaviour and rank_and_size()[1] > 1 else None
        with noting_how(model) as computed:
            states = record_batches(
                model,
                self._token_ids,
                self._batches,
                self.layers,
                pad_token_id=self._pad_token_id,
                dtype=self.dtype,
                behaviour=self._behaviour if answers is None else answers,
                pooled=self.pooled,
            )
        before = self._computed_before
        self.computed_as = {key: _and(before.get(key, value), value) for key, value in computed.items()}
        return (prompts, states), answers

    def _measure(self, model: Any) -> Measured:
        """All quantities of the model; each rank measures, since each must take part in the passes of a sharded one."""

        def found() -> Measured:
            ours = [quantity.of(model, self._processing_class) for quantity in self.quantities]
            return {name: value for one in ours for name, value in one.items()}

        return found() if sharded_modules(model) else on_each(found)

    def _hand_over(self, answers: Answers) -> None:
        """Let rank 0 compare the answers of all ranks, a piece at a time."""
        numbers = gathered(len(answers))
        n_pieces = on_first(lambda: math.ceil(max(numbers) / _PIECE))
        for piece in answers.pieces(n_pieces, _PIECE):
            on_first(partial(self._compare, gathered(piece)))

    def _compare(self, pieces: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]) -> None:
        assert self._behaviour is not None
        for prompts, log_probabilities in pieces:
            self._behaviour.add(prompts, to_compare(torch.from_numpy(log_probabilities).to(self._device)))

    def _take(self, step: int, parts: Sequence[_Part], measured: Measured) -> int:
        """On rank 0: put the parts together, keep them, look at them; how many checkpoints in a row were stable."""
        order = np.concatenate([prompts for prompts, _ in parts])
        clouds = {layer: in_order(order, [states[layer] for _, states in parts]) for layer in self.layers}
        self._keep(step, clouds, None if self._behaviour is None else self._behaviour.finish(step), measured)
        self._settle()
        numbers = {name: value for name, value in measured.items() if not isinstance(value, str)}
        if self._sender is None and (self._live is not None or numbers):
            self._sender = _sender_to_active_run()
        if self._live is None:
            self._log(step, numbers)
        else:
            self._following = in_background(self._follow, step, clouds, self._live, numbers)
        if self._waits:
            self._settle()
        if self.on_record is not None:
            self.on_record(step)
        return self._n_stable

    def _follow(
        self,
        step: int,
        clouds: Mapping[int, npt.NDArray[Any]],
        live: LiveTopology,
        numbers: dict[str, float],
    ) -> None:
        """Compute the topology of a checkpoint, and log all its metrics."""
        self.metrics[step] = live.update(clouds)
        if self.stop_when_stable:
            self._compare_with_floor(step, clouds, live)
        self._log(step, self.metrics[step] | numbers)

    def _settle(self) -> None:
        """Wait for the topology of the last checkpoint; an error in it is raised here, once."""
        following, self._following = self._following, None
        if following is not None:
            following.result()

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand a checkpoint's metrics to a thread that logs them: no server stops or slows the training."""
        if self._sender is not None:
            now = int(time.time() * 1000)
            self._sender.add([(name, value, now, step) for name, value in metrics.items()])

    def _compare_with_floor(
        self, step: int, clouds: Mapping[int, npt.NDArray[Any]], live: LiveTopology
    ) -> None:
        """Count the checkpoints in a row at which no layer has moved by as much as its floor."""
        if not self.floors:
            self.floors = live.sampling_floors(clouds)
            found = {metric_name("topology", H1_SAMPLING_FLOOR, k): floor for k, floor in self.floors.items()}
            self.metrics[step].update({name: floor for name, floor in found.items() if np.isfinite(floor)})
            return
        still = below_floor(live.h1_velocities, self.floors)
        self._n_stable = self._n_stable + 1 if still else 0

    def _keep(
        self,
        step: int,
        clouds: dict[int, npt.NDArray[Any]],
        answered: Answered | None,
        measured: Measured,
    ) -> None:
        if self.quantities:
            self.measured[step] = measured
        if self.folder is None:
            self.clouds[step] = clouds
            if answered is not None:
                self.divergences[step], self.roots[step] = answered
            return
        if step in self._found:
            return
        write_file(self.folder / NOTE_FILE, json_bytes(self._note()))
        for layer, cloud in clouds.items():
            write_file(self.folder / f"{cell_name(step, layer)}.npy", array_bytes(cloud))
        if answered is not None:
            write_file(self.folder / behaviour_name(step), array_bytes(answered.divergences))
            write_file(self.folder / roots_name(step), array_bytes(answered.roots))
        if self.quantities:
            # JSON has no NaN, which is the loss of a training that has diverged
            known = {
                name: value if isinstance(value, str) or math.isfinite(value) else None
                for name, value in measured.items()
            }
            write_file(self.folder / quantities_name(step), json_bytes(known))


def _tokens_of_training(args: Any) -> int | None:
    """The tokens of a forward pass in training at most; None on a CPU, and where its arguments do not say."""
    longest = getattr(args, "max_length", None)
    known = longest is not None and args.device.type != "cpu"
    return args.per_device_train_batch_size * longest if known else None


def _and(before: str | None, now: str | None) -> str | None:
    """How the interrupted part of a training was computed, and what has come to it since.

    >>> _and("cpu", "cpu"), _and("cpu", "cuda"), _and("cpu, cuda", "cuda")
    ('cpu', 'cpu, cuda', 'cpu, cuda')
    """
    return before if before == now or str(now) in str(before).split(", ") else f"{before}, {now}"


def _live_topology(topology: bool | Topology, n_prompts: int, seed: int) -> LiveTopology | None:
    if topology is False:
        return None
    if not isinstance(topology, bool | Topology):
        raise InvalidArgument("topology", "True, False or a topoflow.Topology", topology)
    settings = Topology() if topology is True else topology
    return LiveTopology(
        n_prompts,
        settings.n_subsamples,
        settings.subsample_size,
        seed,
        engine=settings.engine,
        prepared=settings.preparation,
        maxdim=settings.maxdim,
    )


def _sender_to_active_run() -> Sender | None:
    """To MLflow where the training does: only if it has been imported and a run is active."""
    mlflow = sys.modules.get("mlflow")
    if mlflow is None or not (run := mlflow.active_run()):
        return None
    uri = mlflow.get_tracking_uri()

    def send(metrics: Sequence[Any]) -> None:
        if metrics:
            entities = [mlflow.entities.Metric(*metric) for metric in metrics]
            mlflow.MlflowClient(uri).log_batch(run.info.run_id, metrics=entities, synchronous=True)

    return Sender(send, "MLflow", "the training goes on, and the topology is in the callback's `metrics`")


def tokenize_prompts(
    tokenizer: Any, prompts: Sequence[str] | Sequence[Messages], max_length: int, template: str = "auto"
) -> list[list[int]]:
    """The token ids of each prompt as the model would meet it before answering, its end kept.

    Messages are rendered by the chat template of the tokenizer (or of the processor that has it) with the generation
    prompt; where there is no template, by `plain_text`. Another `template` of `TopologyCallback` renders otherwise.

    Raises
    ------
    InvalidArgument
        When a prompt has no token, the template refuses it, as some do a system message, or there is none.
    """
    from jinja2 import TemplateError

    max_length = check_whole_number("max_length", max_length, at_least=1)
    tokenizer, processor = tokenizer_in(tokenizer), tokenizer
    own = getattr(tokenizer, "chat_template", None)
    rendered_by = (own or getattr(processor, "chat_template", None)) if template in ("auto", "chat") else None
    if template == "chat" and not rendered_by:
        raise InvalidArgument(
            "template", "auto, hh or plain where the tokenizer has no chat template", template
        )
    token_ids: list[list[int]] = []
    for prompt in prompts:
        place = len(token_ids)
        if isinstance(prompt, str):
            ids = tokenizer(prompt)["input_ids"]
        elif rendered_by:
            try:
                text = tokenizer.apply_chat_template(
                    prompt,
                    chat_template=None if own else rendered_by,
                    add_generation_prompt=True,
                    tokenize=False,
                )
            except TemplateError as error:
                raise InvalidArgument(
                    f"prompts[{place}]", "messages that the chat template takes", prompt, str(error)
                ) from error
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]  # the template has put its own
        else:
            ids = tokenizer(contents(prompt) if template == "plain" else plain_text(prompt))["input_ids"]
        token_ids.append(list(ids)[-max_length:])
        if not token_ids[-1]:
            raise InvalidArgument(f"prompts[{place}]", "text of at least one token", prompt)
    return token_ids


def tokenizer_in(processing_class: Any) -> Any:
    """The tokenizer that a Trainer was given, or that of the processor that it was given."""
    from transformers import ProcessorMixin

    found = processing_class
    if isinstance(processing_class, ProcessorMixin):
        found = getattr(processing_class, "tokenizer", None)
    if not callable(found) or not hasattr(found, "apply_chat_template"):
        raise InvalidArgument(
            "processing_class",
            "a tokenizer, or a processor that has one",
            type(processing_class),
            "give it to the Trainer",
        )
    return found


def contents(messages: Messages) -> str:
    """What the messages of a dialogue say, without who says it.

    >>> contents([{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}])
    'Hello?\\n\\nHello.'
    """
    return "\n\n".join(str(message["content"]) for message in messages)


def plain_text(messages: Messages) -> str:
    """A dialogue as text for models without a chat template, in the form of Anthropic's HH-RLHF.

    >>> plain_text([{"role": "user", "content": "Hello?"}])
    '\\n\\nHuman: Hello?\\n\\nAssistant:'
    """
    speakers = {"user": "Human", "assistant": "Assistant", "system": "System"}
    for message in messages:
        if message.get("role") not in speakers or not isinstance(message.get("content"), str):
            roles = ", ".join(speakers)
            raise InvalidArgument("messages", f"text of {roles}, where there is no chat template", message)
    turns = [f"\n\n{speakers[message['role']]}: {message['content']}" for message in messages]
    return "".join(turns) + "\n\nAssistant:"
