import itertools
import shutil
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_trainers import TOKENS, trainer
from support import assistant, llama, refused, rows, tracking_to, user

from topoflow.config import Finetune, Lora, Topology
from topoflow.config.schedule import Schedule
from topoflow.errors import InvalidFile
from topoflow.recording.callback import TopologyCallback, plain_text, tokenize_prompts
from topoflow.recording.hidden_states import record_states, resolve_layers
from topoflow.recording.live import LiveTopology
from topoflow.training import sft

ROWS = rows(16)
PROMPTS = [[user(f"Prompt {i} {'x' * i}")] for i in range(6)]
SETTINGS = Finetune(max_steps=5, per_device_train_batch_size=2, lora=Lora(r=2, dropout=0.1))


def train(model, tokenizer, tmp_path, callback=None, settings=SETTINGS):
    trained, log = sft.finetune(model, tokenizer, ROWS, settings, 7, tmp_path / "trainer", callback)
    return trained, [entry["loss"] for entry in log if "loss" in entry]


@pytest.mark.parametrize("lora", [SETTINGS.lora, None], ids=["lora with dropout", "all weights"])
def test_the_hook_does_not_change_the_training_by_a_bit(tokenizer, tmp_path, lora):
    settings = Finetune(max_steps=5, per_device_train_batch_size=2, lora=lora)
    runs = []
    for recorded in (False, True):
        network = llama(len(tokenizer), attention_dropout=0.1)  # dropout draws random numbers in training
        callback = TopologyCallback(PROMPTS, 2, Schedule(every=1), behaviour=True) if recorded else None
        runs.append(train(network, tokenizer, tmp_path, callback, settings))
    (plain, plain_losses), (watched, watched_losses) = runs
    assert len(callback.steps) == 6
    assert plain_losses == watched_losses
    assert len(set(plain_losses)) > 1  # something was trained
    weights = [dict(trained.state_dict()) for trained in (plain, watched)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    "changes",
    [{"bf16": True}, {"activation_checkpointing": True}, {"bf16": True, "activation_checkpointing": True}],
    ids=lambda changes: " and ".join(changes),
)
@pytest.mark.parametrize("behaviour", [False, True])
def test_the_hook_does_not_change_a_training_in_mixed_precision_or_with_activation_checkpointing(
    tokenizer, tmp_path, changes, behaviour
):
    from peft import LoraConfig, get_peft_model

    ends, clouds = [], []
    for recorded in (False, True):
        torch.manual_seed(1)
        lora = LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.1, task_type="CAUSAL_LM")
        network = get_peft_model(llama(len(tokenizer)), lora)
        callback = TopologyCallback(PROMPTS, [2, 4], Schedule(every=1), behaviour=behaviour)
        trainer(network, tmp_path, *[callback][: int(recorded)], max_steps=3, **changes).train()
        ends.append({name: value.clone() for name, value in network.state_dict().items()})
        clouds.append(callback.clouds)
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert any(value.any() for name, value in ends[1].items() if "lora_B" in name)
    ids = tokenize_prompts(tokenizer, PROMPTS, 512)
    network.eval()
    for layer, cloud in clouds[1][3].items():  # the precision is that of training
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled="bf16" in changes):
            hidden = network(torch.tensor([ids[0]]), output_hidden_states=True).hidden_states[layer][0, -1]
        assert cloud.dtype == np.float32
        tolerance = 2e-2 if "bf16" in changes else 1e-5
        assert np.abs(cloud[0] - hidden.float().numpy()).max() <= tolerance * hidden.abs().max()


def test_checkpoints_are_recorded_at_their_steps_and_the_first_is_the_untouched_model(
    model, tokenizer, tmp_path
):
    ids = tokenize_prompts(tokenizer, PROMPTS, 512)
    before = record_states(model, ids, [2, 4], pad_token_id=tokenizer.pad_token_id)
    seen = []
    callback = TopologyCallback(PROMPTS, [2, 4], Schedule(steps=(1, 3)), on_record=seen.append)
    trained, _ = train(model, tokenizer, tmp_path, callback)
    assert callback.steps == seen == [0, 1, 3, 5]
    assert callback.layers == (2, 4)
    after = record_states(trained, ids, [2, 4], pad_token_id=tokenizer.pad_token_id)
    for layer in (2, 4):
        assert np.array_equal(callback.clouds[0][layer], before[layer])
        assert np.array_equal(callback.clouds[5][layer], after[layer])
        assert not np.array_equal(callback.clouds[1][layer], before[layer])


@pytest.mark.parametrize(("kind", "warmup"), [("cosine", 0), ("linear", 3), ("constant", 0)])
def test_twins_are_recorded_where_their_schedule_said_they_would_be_and_rates_are_those_of_the_log(
    model, tokenizer, tmp_path, kind, warmup
):
    settings = replace(SETTINGS, max_steps=9, lr_scheduler_type=kind, warmup_steps=warmup)
    callback = TopologyCallback(PROMPTS, [4], Schedule(twins=4))
    _, log = sft.finetune(model, tokenizer, ROWS, settings, 7, tmp_path / "trainer", callback)
    rates = sft.learning_rates(settings)
    assert callback.learning_rates == rates == [entry["learning_rate"] for entry in log if "loss" in entry]
    assert callback.steps == list(callback.schedule.checkpoints(9, rates))
    expected = {"cosine": (0, 2, 4, 8), "linear": (0, 3, 5, 8), "constant": (0, 3, 5, 8)}
    assert callback.schedule.anchors(9, rates) == expected[kind]


def test_a_rate_that_follows_the_loss_has_twins_even_in_steps_and_one_warning(
    model, tokenizer, tmp_path, caplog
):
    from torch.optim.lr_scheduler import ReduceLROnPlateau
    from transformers import TrainerCallback

    class Fall(TrainerCallback):
        def on_step_end(self, args, state, control, lr_scheduler, **kwargs):
            lr_scheduler.step(float(state.global_step))  # a loss that grows

    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    callback = TopologyCallback(PROMPTS, [4], Schedule(twins=4))
    optimizers = (optimizer, ReduceLROnPlateau(optimizer, factor=0.5, patience=1))
    trainer(model, tmp_path, callback, Fall(), given={"optimizers": optimizers}, max_steps=9).train()
    assert callback.steps == list(Schedule(twins=4, clock="steps").checkpoints(9))
    assert callback.learning_rates == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    (said,) = [record for record in caplog.records if record.name == "topoflow.recording.callback"]
    assert "ReduceLROnPlateau" in said.getMessage()


@pytest.mark.parametrize(
    ("device", "given", "trained", "most"),
    [
        ("cuda", {}, {"max_length": 16}, 32),
        ("cuda", {"batch_tokens": 64}, {"max_length": 16}, 64),  # as is said
        ("cuda", {}, {}, None),  # transformers' own Trainer does not know how long its rows are
        ("cpu", {}, {"max_length": 16}, None),  # so that results of before keep their bytes
        ("cpu", {"batch_tokens": 64}, {"max_length": 16}, 64),
    ],
)
def test_on_an_accelerator_no_more_tokens_are_recorded_at_once_than_a_batch_in_training_has(
    model, tokenizer, device, given, trained, most
):
    passes = []
    model.register_forward_pre_hook(
        lambda _, __, kwargs: passes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    arguments = SimpleNamespace(
        device=torch.device(device), per_device_train_batch_size=2, dataloader_num_workers=0, **trained
    )
    callback = TopologyCallback(["x" * i for i in range(1, 17)], [4], batch_size=8, **given)
    state = SimpleNamespace(global_step=0, max_steps=0, log_history=[])
    callback.on_train_begin(arguments, state, None, model=model, processing_class=tokenizer)
    assert sum(size for size, _ in passes) == 16
    if most is None:
        assert passes == [(8, 8), (8, 16)]
    else:
        assert all(size * length <= most for size, length in passes)
        assert len(passes) > 2


def test_a_second_training_is_recorded_from_its_own_beginning(model, tokenizer, tmp_path):
    callback = TopologyCallback(PROMPTS, [4], topology=Topology(n_subsamples=2, subsample_size=4))
    train(model, tokenizer, tmp_path, callback)
    first = callback.clouds
    train(llama(len(tokenizer), num_hidden_layers=5), tokenizer, tmp_path, callback)
    assert callback.steps == [0, *range(1, 6)]
    assert not np.array_equal(callback.clouds[0][4], first[5][4])
    assert not np.array_equal(callback.clouds[0][4], first[0][4])
    assert "topology/h0_velocity/layer_04" not in callback.metrics[0]


def resumed(tokenizer, folder, begun=None, prompts=PROMPTS, **options):
    """A training of four steps that saves at step 2, or goes on from there."""
    options = {"topology": Topology(n_subsamples=2, subsample_size=4), "behaviour": True} | options
    callback = TopologyCallback(prompts, [2, 4], Schedule(steps=(1, 3)), folder=folder / "set", **options)
    saving = {"save_strategy": "steps", "save_steps": 2}
    made = trainer(llama(len(tokenizer)), folder / "trainer", callback, **saving)
    made.train(resume_from_checkpoint=begun and str(folder / "trainer" / begun))
    return callback


def test_a_training_that_goes_on_is_compared_with_its_own_first_checkpoint(tokenizer, tmp_path):
    whole = resumed(tokenizer, tmp_path, stop_when_stable=9)
    answers = np.load(tmp_path / "set/step_000003/behaviour.npy", allow_pickle=False)
    for step in (3, 4):
        shutil.rmtree(tmp_path / f"set/step_{step:06}")
    again = resumed(tokenizer, tmp_path, "checkpoint-2", stop_when_stable=9)  # step 2 was not recorded
    assert again.steps == [0, 1, 2, 3, 4]
    assert again.floors == whole.floors
    assert again.learning_rates == whole.learning_rates == [0.01, 0.0075, 0.005, 0.0025]
    same = [name for name in whole.metrics[3] if "velocity" not in name]  # since step 2, and since step 1
    assert {name: again.metrics[3][name] for name in same} == {name: whole.metrics[3][name] for name in same}
    assert whole.metrics[4] == again.metrics[4]
    assert any("displacement" in name for name in same)
    second, third = (
        np.load(tmp_path / f"set/step_{step:06}/behaviour.npy", allow_pickle=False) for step in (2, 3)
    )
    assert np.isnan(second[0]).all()  # the answers at step 1 had made room for those at step 4
    assert np.array_equal(third[1], answers[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": PROMPTS[::-1]},
        {"dtype": "float64"},
        {"max_length": 3},
        {"pooling": "mean"},
        {"position": -2},
    ],
    ids=["prompts", "dtype", "max_length", "pooling", "position"],
)
def test_states_of_other_prompts_or_another_precision_are_not_taken_up(tokenizer, tmp_path, changes):
    resumed(tokenizer, tmp_path, topology=False)
    with refused(InvalidFile, path=tmp_path / "set/recording.json"):
        resumed(tokenizer, tmp_path, "checkpoint-2", topology=False, **changes)
    resumed(tokenizer, tmp_path, "checkpoint-2", topology=False, batch_size=2)


@pytest.mark.parametrize("stop", [None, 3], ids=["to the end", "stopped early"])
def test_the_last_step_is_recorded_before_the_best_model_replaces_it(model, tokenizer, tmp_path, stop):
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # the weights as each step leaves them
        def on_step_end(self, args, state, control, model, **kwargs):
            weights[state.global_step] = model.get_input_embeddings().weight.detach().clone()

        def on_evaluate(self, args, state, control, **kwargs):
            control.should_training_stop |= state.global_step == stop

    weights = {}
    callback = TopologyCallback(PROMPTS, [0, 1], Schedule(twins=0), dtype="float64")
    trainer(
        model, tmp_path / "trainer", Watch(), callback, given={"eval_dataset": TOKENS}, max_steps=5,
        learning_rate=5.0, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
        load_best_model_at_end=True,
    ).train()  # fmt: skip
    last = stop or 5
    assert callback.steps == [0, last]
    final = model.get_input_embeddings().weight
    assert not torch.equal(final, weights[last])  # the best model was another
    token = tokenize_prompts(tokenizer, PROMPTS, 512)[0][-1]
    assert np.array_equal(callback.clouds[last][0][0], weights[last][token].double().numpy())


def test_a_diverged_loss_is_in_the_trainers_log_and_in_no_tracker(
    model, tokenizer, tmp_path, fresh_store, monkeypatch
):
    import mlflow

    from topoflow.tracking.live import training_run

    monkeypatch.chdir(tmp_path)
    settings = Finetune(max_steps=3, per_device_train_batch_size=2, lora=None)
    with torch.no_grad():
        model.lm_head.weight[5, 0] = torch.nan
    with training_run("diverges") as live:
        _, log = sft.finetune(
            model, tokenizer, ROWS, settings, 7, tmp_path / "trainer", None, [live.callback()]
        )
    (run,) = mlflow.search_runs(output_format="list")
    logged = run.data.metrics
    assert all(np.isnan(entry["loss"]) for entry in log if "loss" in entry)
    assert "learning_rate" in logged
    assert "loss" not in logged
    assert all(np.isfinite(value) for value in logged.values())


def test_a_trainer_without_a_tokenizer_is_refused_by_name():
    from transformers import AutoFeatureExtractor

    for given in (None, AutoFeatureExtractor):
        with refused(name="processing_class"):
            tokenize_prompts(given, PROMPTS, 8)


def test_of_a_processor_the_tokenizer_is_taken(model, tokenizer, tmp_path):
    from copy import deepcopy

    from transformers import ProcessorMixin

    class Processor(ProcessorMixin):
        def __init__(self, tokenizer, chat_template=None):
            self.tokenizer, self.chat_template = tokenizer, chat_template

    bare = deepcopy(tokenizer)
    bare.chat_template = None
    for processor in (Processor(tokenizer), Processor(bare, tokenizer.chat_template)):
        assert tokenize_prompts(processor, PROMPTS, 64) == tokenize_prompts(tokenizer, PROMPTS, 64)
    callback = TopologyCallback(PROMPTS, [4], Schedule(twins=0))
    given = {
        "processing_class": Processor(tokenizer),
        "data_collator": lambda batch: {k: torch.tensor([row[k] for row in batch]) for k in batch[0]},
    }
    trainer(model, tmp_path, callback, given=given, max_steps=1).train()
    assert callback.steps == [0, 1]


def test_a_tokenizer_without_ends_or_padding_serves(model, tokenizer):
    from copy import deepcopy

    bare = deepcopy(tokenizer)
    bare.eos_token = bare.pad_token = None
    callback = TopologyCallback(PROMPTS, [4])
    callback._begin(model, bare)
    assert callback._pad_token_id == 0
    assert tokenize_prompts(bare, PROMPTS, 64) == tokenize_prompts(tokenizer, PROMPTS, 64)


def test_messages_that_cannot_be_rendered_are_named(tokenizer):
    from copy import deepcopy

    strict, plain = deepcopy(tokenizer), deepcopy(tokenizer)
    strict.chat_template = "{{ raise_exception('System role not supported') }}"
    plain.chat_template = None
    for refusing, name in ((strict, "prompts[1]"), (plain, "messages")):
        with refused(name=name):
            tokenize_prompts(refusing, ["text", [{"role": "tool", "content": "4"}]], 64)


def test_with_a_folder_each_checkpoint_is_written_at_once_and_nothing_is_kept(model, tokenizer, tmp_path):
    written = []
    callback = TopologyCallback(
        PROMPTS,
        [4],
        Schedule(steps=(2,)),
        folder=tmp_path / "set",
        on_record=lambda step: written.append(sorted(p.name for p in (tmp_path / "set").iterdir())),
    )
    train(model, tokenizer, tmp_path, callback)
    assert written[0] == ["recording.json", "step_000000"]
    assert written[-1] == ["recording.json", "step_000000", "step_000002", "step_000005"]
    assert callback.clouds == {}
    cloud = np.load(tmp_path / "set" / "step_000005" / "layer_04.npy", allow_pickle=False)
    assert cloud.shape == (len(PROMPTS), 32)


def test_layer_0_is_one_point_under_a_chat_template(model, tokenizer, tmp_path):
    callback = TopologyCallback(PROMPTS, [0, 1], Schedule(twins=0))
    train(model, tokenizer, tmp_path, callback)
    assert (callback.clouds[0][0] == callback.clouds[0][0][0]).all()
    assert not (callback.clouds[0][1] == callback.clouds[0][1][0]).all()


def test_prompts_may_be_text_and_long_ones_keep_their_end(tokenizer):
    (ids,) = tokenize_prompts(tokenizer, ["abcdef"], 3)
    assert tokenizer.decode(ids) == "def"


def test_messages_are_rendered_up_to_where_the_assistant_begins(tokenizer):
    (ids,) = tokenize_prompts(tokenizer, [[user("Hi")]], 512)
    assert tokenizer.decode(ids) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_without_a_chat_template_the_form_of_hh_rlhf_is_used(tokenizer):
    from copy import deepcopy

    plain = deepcopy(tokenizer)
    plain.chat_template = None
    messages = [user("Hi"), assistant("Yes?")]
    (ids,) = tokenize_prompts(plain, [messages], 512)
    assert plain.decode(ids) == plain_text(messages) == "\n\nHuman: Hi\n\nAssistant: Yes?\n\nAssistant:"


def test_a_template_that_is_asked_for_is_used_or_refused(tokenizer):
    from copy import deepcopy

    bare = deepcopy(tokenizer)
    bare.chat_template = None
    prompt = [[{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]]
    for template, text in (("hh", plain_text(prompt[0])), ("plain", "Be short.\n\nHi")):
        for one in (tokenizer, bare):
            assert one.decode(tokenize_prompts(one, prompt, 512, template)[0]) == text
    assert tokenize_prompts(tokenizer, prompt, 512, "chat") == tokenize_prompts(tokenizer, prompt, 512)
    with refused(name="template", expected="no chat template", got="chat"):
        tokenize_prompts(bare, prompt, 512, "chat")


def test_too_few_or_empty_prompts_are_refused(tokenizer):
    with refused(name="prompts[1]"):
        tokenize_prompts(tokenizer, ["a", ""], 5)


@pytest.mark.parametrize(
    "changes",
    [{"prompts": ["one"]}, {"prompts": "one text"}, {"batch_size": 0}, {"batch_tokens": 0}, {"max_length": 0},
     {"max_length": -3},
     {"dtype": "bfloat16"}, {"template": "alpaca"}, {"pooling": "max"}, {"position": 0},
     {"position": -2, "pooling": "mean"}],
    ids=str,
)  # fmt: skip
def test_what_would_record_something_else_or_fail_late_is_refused_at_once(changes):
    with refused(name=next(iter(changes))):
        TopologyCallback(**{"prompts": PROMPTS, **changes})


@pytest.mark.parametrize("how", [{"pooling": "mean"}, {"position": -2}], ids=str)
def test_a_training_is_recorded_at_the_tokens_that_are_asked_for(model, tokenizer, tmp_path, how):
    ids = tokenize_prompts(tokenizer, PROMPTS, 512)
    before = record_states(model, ids, [2, 4], pad_token_id=tokenizer.pad_token_id, **how)
    callback = TopologyCallback(PROMPTS, [2, 4], Schedule(twins=0), **how)
    train(model, tokenizer, tmp_path, callback)
    assert all(np.array_equal(callback.clouds[0][layer], before[layer]) for layer in (2, 4))


def test_a_prompt_too_short_for_the_position_is_refused_before_training(model, tokenizer, tmp_path):
    lengths = [len(ids) for ids in tokenize_prompts(tokenizer, PROMPTS, 512)]
    too_short = f"prompts[{lengths.index(min(lengths))}] has {min(lengths)} tokens"
    callback = TopologyCallback(PROMPTS, [2], Schedule(twins=0), position=-500)
    weights = model.get_input_embeddings().weight.detach().clone()
    with refused(name="position", expected=too_short, got=-500):
        train(model, tokenizer, tmp_path, callback)
    assert callback.steps == []
    assert torch.equal(model.get_input_embeddings().weight, weights)


@pytest.mark.parametrize("layers", [True, "12", [1.5], [-1], 10**15, [10**15], []])
def test_layers_that_there_are_not_are_refused(model, layers):
    with refused(name="layers"):
        resolve_layers(model, layers)
    assert resolve_layers(model, np.int64(2)) == resolve_layers(model, 2)


def test_live_topology_is_that_of_the_recorded_states_and_goes_to_the_active_run(
    model, tokenizer, tmp_path, fresh_store
):
    import mlflow

    from topoflow.dynamics.cells import cell_diagrams, cell_distances
    from topoflow.topology.point_clouds import subsample_plan

    callback = TopologyCallback(
        PROMPTS, [2, 4], Schedule(every=2), topology=Topology(n_subsamples=3, subsample_size=5), seed=11
    )
    with mlflow.start_run() as run:
        train(model, tokenizer, tmp_path, callback)
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "topology/h0_velocity/layer_04")
    logged = {m.step: m.value for m in history}
    plan = subsample_plan(len(PROMPTS), 3, 5, 11)
    cells = [cell_diagrams(callback.clouds[step][4], plan) for step in callback.steps]
    expected = [float(cell_distances(a, b, 0).mean()) for a, b in itertools.pairwise(cells)]
    assert logged == dict(zip(callback.steps[1:], expected, strict=True))
    assert callback.metrics[2]["topology/h0_velocity/layer_04"] == expected[0]
    assert "topology/h0_velocity/layer_04" not in callback.metrics[0]
    displacement = callback.metrics[5]["topology/h0_displacement/layer_04"]
    assert displacement == float(cell_distances(cells[0], cells[-1], 0).mean())


def test_mlflow_that_never_answers_costs_a_users_own_training_nothing(
    model, tokenizer, tmp_path, monkeypatch, caplog
):
    import socket

    import mlflow

    from topoflow.recording import callback as module

    monkeypatch.setattr(module, "_PATIENCE", 0.5)
    monkeypatch.setattr(mlflow, "active_run", lambda: SimpleNamespace(info=SimpleNamespace(run_id="a" * 32)))
    callback = TopologyCallback(
        PROMPTS, [2, 4], Schedule(every=2), topology=Topology(n_subsamples=3, subsample_size=5)
    )
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections, and says nothing
        with tracking_to(f"http://127.0.0.1:{silent.getsockname()[1]}"):
            began = time.monotonic()
            train(model, tokenizer, tmp_path, callback)
            assert time.monotonic() - began < 30
    assert set(callback.metrics) == set(callback.steps) > {0, 5}
    assert caplog.text.count("MLflow does not answer") == 1


def test_live_topology_needs_no_mlflow_and_more_prompts_than_a_subsample_has_points(
    model, tokenizer, tmp_path
):
    callback = TopologyCallback(PROMPTS, [4], topology=Topology(n_subsamples=2, subsample_size=4))
    train(model, tokenizer, tmp_path, callback)
    assert set(callback.metrics) == set(callback.steps)
    with refused(name="subsample_size", expected="at most the number of points (6)", got=160):
        TopologyCallback(PROMPTS, topology=True)


STOPPING = Topology(n_subsamples=2, subsample_size=24)
MANY = [
    f"Prompt {i * i} ends in {chr(65 + i)}" for i in range(58)
]  # enough of them, and unlike enough, for H1


def stopping_run(model, tokenizer, tmp_path, stop, learning_rate=1e-6):
    settings = Finetune(max_steps=5, per_device_train_batch_size=2, lora=None, learning_rate=learning_rate)
    callback = TopologyCallback(MANY, [2, 4], Schedule(every=1), topology=STOPPING, stop_when_stable=stop)
    train(model, tokenizer, tmp_path, callback, settings)
    return callback


def test_training_ends_after_k_checkpoints_in_a_row_below_the_floor(model, tokenizer, tmp_path):
    callback = stopping_run(model, tokenizer, tmp_path, 2)
    assert callback.steps == [0, 1, 2]
    assert callback.stopped_at == 2
    assert set(callback.floors) == {2, 4}
    for layer, floor in callback.floors.items():
        assert callback.metrics[0][f"topology/h1_sampling_floor/layer_{layer:02d}"] == floor
        assert callback.metrics[2][f"topology/h1_velocity/layer_{layer:02d}"] < floor


def test_the_floor_is_the_sampling_floor_of_the_first_checkpoint(model, tokenizer, tmp_path):
    from topoflow.dynamics.prompts import sampling_floor

    callback = stopping_run(model, tokenizer, tmp_path, 1)
    for layer, cloud in callback.clouds[0].items():
        assert callback.floors[layer] == sampling_floor(cloud, 24).disjoint[1] > 0


def test_training_goes_on_while_a_layer_moves_and_a_move_starts_the_count_anew(model, tokenizer, tmp_path):
    callback = stopping_run(model, tokenizer, tmp_path, 5)
    assert callback.steps == [0, 1, 2, 3, 4, 5]
    assert callback.stopped_at is None  # five in a row, and with them training ended by itself
    callback = TopologyCallback(MANY, [1], topology=STOPPING, stop_when_stable=2)
    callback.floors = {1: 1.0, 2: 1.0}
    counts = []
    for step, velocities in enumerate([(0.5, 0.5), (0.5, 1.0), (0.5, 0.5), (0.5, None), (0.1, 0.1), (0, 0)]):
        found = {layer: moved for layer, moved in enumerate(velocities, 1) if moved is not None}
        callback._compare_with_floor(step, {}, SimpleNamespace(h1_velocities=found))
        counts.append(callback._n_stable)
    assert counts == [1, 0, 1, 0, 1, 2]


def test_without_stop_when_stable_training_is_never_ended_and_no_floor_is_computed(
    model, tokenizer, tmp_path
):
    callback = stopping_run(model, tokenizer, tmp_path, None)
    assert callback.steps == [0, 1, 2, 3, 4, 5]
    assert (callback.floors, callback.stopped_at) == ({}, None)
    assert not any("floor" in name for metrics in callback.metrics.values() for name in metrics)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"stop_when_stable": 0, "topology": True}, "stop_when_stable"), ({"stop_when_stable": 3}, "topology")],
)
def test_a_stop_that_cannot_work_is_refused(arguments, name):
    with refused(name=name):
        TopologyCallback(MANY * 3, **arguments)


# --- topology in a thread -----------------------------------------------------------------------

SMALL_TOPOLOGY = Topology(n_subsamples=2, subsample_size=4)


def followed(tmp_path, tokenizer, *others, **options):
    callback = TopologyCallback(PROMPTS, [4], Schedule(every=2), topology=SMALL_TOPOLOGY, **options)
    made = trainer(llama(len(tokenizer)), tmp_path, callback, *others, max_steps=4)
    return callback, made


def test_training_goes_on_while_the_topology_of_a_checkpoint_is_computed(tokenizer, tmp_path, monkeypatch):
    from transformers import TrainerCallback

    stepped, whole, waited = threading.Event(), LiveTopology.update, []

    def update(self, clouds):
        waited.append(stepped.wait(60))  # in vain, if the training waited for the first checkpoint
        return whole(self, clouds)

    class Steps(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            stepped.set()

    callback, made = followed(tmp_path, tokenizer, Steps())
    with monkeypatch.context() as patch:
        patch.setattr(LiveTopology, "update", update)
        made.train()
    assert waited == [True] * 3
    assert callback.steps == [0, 2, 4]
    live = LiveTopology(len(PROMPTS), 2, 4)
    assert callback.metrics == {step: live.update(callback.clouds[step]) for step in callback.steps}
    assert list(callback.metrics) == callback.steps


@pytest.mark.parametrize(("fails_at", "kept"), [(0, (0, 2)), (4, (0, 2, 4))])
def test_an_error_in_the_thread_is_raised_at_the_next_checkpoint_and_no_states_are_lost(
    tokenizer, tmp_path, monkeypatch, fails_at, kept
):
    whole, calls = LiveTopology.update, itertools.count(0, 2)

    def update(self, clouds):
        if next(calls) == fails_at:
            raise ZeroDivisionError("planted")
        return whole(self, clouds)

    monkeypatch.setattr(LiveTopology, "update", update)
    callback, made = followed(tmp_path, tokenizer, folder=tmp_path / "states")
    with pytest.raises(ZeroDivisionError, match="planted"):
        made.train()
    assert made.state.global_step == kept[-1]
    assert sorted(path.parent.name for path in (tmp_path / "states").rglob("*.npy")) == [
        f"step_{step:06d}" for step in kept
    ]
    monkeypatch.setattr(LiveTopology, "update", whole)
    made.train()  # nothing of the error is left
    assert list(callback.metrics) == [0, 2, 4]


@pytest.mark.parametrize("waits", ["on_record", "workers", "stop_when_stable"])
def test_the_training_waits_for_topology_where_something_needs_it(tokenizer, tmp_path, waits):
    known, asked = [], []
    options = {"stop_when_stable": 99} if waits == "stop_when_stable" else {}
    callback, made = followed(tmp_path, tokenizer, **options)
    if waits == "on_record":
        callback.on_record = lambda step: asked.append(step in callback.metrics)
    made.args.dataloader_num_workers = int(waits == "workers")
    record = callback._record

    def recorded(step, model):
        record(step, model)
        known.append(step in callback.metrics)

    callback._record = recorded
    made.train()
    assert set(known) == {True}
    assert asked == [True] * 3 * (waits == "on_record")
