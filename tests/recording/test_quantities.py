"""Numbers that are measured of a model at checkpoints, beside its states."""

import json
import math

import mlflow
import pytest
import torch
from datasets import Dataset
from support import llama, refused, rows, user

from topoflow import Quantity, TopologyCallback, greedy_answers, held_out_loss
from topoflow.config import Finetune, Lora
from topoflow.config.schedule import Schedule
from topoflow.errors import InvalidFile
from topoflow.training import sft

SETTINGS = Finetune(max_steps=4, per_device_train_batch_size=2, lora=Lora(r=2, dropout=0.1))
PROMPTS = [[user(f"Prompt {i}")] for i in range(4)]
ROWS = rows(12)
DICE = Quantity("dice", "a random number, of no unit", lambda *_: {"thrown": float(torch.rand(()))})


def train(tokenizer, place, quantities=(), **options):
    network = llama(len(tokenizer), attention_dropout=0.1)  # dropout draws random numbers in training
    callback = TopologyCallback(PROMPTS, 1, Schedule(every=2), quantities=quantities, **options)
    trained, log = sft.finetune(network, tokenizer, ROWS, SETTINGS, 7, place / "trainer", callback)
    return trained, [entry["loss"] for entry in log if "loss" in entry], callback


def test_measuring_does_not_change_the_training_by_a_bit(tokenizer, tmp_path):
    plain, losses, _ = train(tokenizer, tmp_path / "plain")
    measured, same, callback = train(
        tokenizer, tmp_path / "measured", [DICE, held_out_loss({"own": ROWS[:3]})]
    )
    assert losses == same
    assert all(map(torch.equal, plain.state_dict().values(), measured.state_dict().values()))
    assert sorted(callback.measured) == callback.steps == [0, 2, 4]
    assert all(set(found) == {"dice/thrown", "held_out_loss/own"} for found in callback.measured.values())
    assert callback.measured[4]["held_out_loss/own"] < callback.measured[0]["held_out_loss/own"]


def test_the_held_out_loss_is_the_one_that_trl_evaluates(tokenizer, tmp_path):
    from trl import SFTConfig, SFTTrainer

    network = llama(len(tokenizer))
    arguments = SFTConfig(
        tmp_path,
        per_device_eval_batch_size=len(ROWS),
        completion_only_loss=True,
        max_length=512,
        report_to="none",
        bf16=False,
        use_cpu=True,
    )
    trainer = SFTTrainer(
        network,
        arguments,
        eval_dataset=Dataset.from_list(ROWS),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
    )
    found = held_out_loss({"own": ROWS}, batch_size=5).of(network, tokenizer)
    assert found == {"held_out_loss/own": pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-5)}


@pytest.mark.parametrize("template", [True, False])
def test_each_answer_is_read_after_its_prompt_and_counted_token_by_token(tokenizer, template):
    network = llama(len(tokenizer))
    rows = ROWS[:4]
    if not template:
        rows = [{"prompt": "2 + 2 =", "completion": " 4"}, {"prompt": "A river:", "completion": " the Rhine"}]
    total = count = 0
    for row in rows:
        if template:
            start = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
            whole = tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], tokenize=False)
        else:
            start, whole = row["prompt"], row["prompt"] + row["completion"] + tokenizer.eos_token
        ids = torch.tensor([tokenizer(whole)["input_ids"]])
        begin = len(tokenizer(start)["input_ids"])
        with torch.no_grad():
            likely = network(input_ids=ids).logits[0, :-1].log_softmax(-1)
        picked = likely[range(ids.shape[1] - 1), ids[0, 1:]][begin - 1 :]
        total, count = total - float(picked.sum()), count + len(picked)
    found = held_out_loss({"own": rows}, batch_size=3).of(network, tokenizer)
    assert found["held_out_loss/own"] == pytest.approx(total / count, rel=1e-5)


def test_messages_without_a_chat_template_are_read_as_prompts_are(tokenizer):
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    network = llama(len(tokenizer))
    text = [{"prompt": "\n\nHuman: Question 1?\n\nAssistant:", "completion": " Answer 1, and more ."}]
    as_messages, as_text = (held_out_loss({"own": rows}).of(network, bare) for rows in (ROWS[1:2], text))
    assert as_messages == as_text


def test_numbers_are_kept_beside_the_states_and_found_again_when_a_training_is_resumed(tokenizer, tmp_path):
    folder = tmp_path / "recorded"
    _, _, callback = train(tokenizer, tmp_path, [DICE], folder=folder)
    kept = {
        step: json.loads((folder / f"step_{step:06d}/quantities.json").read_text()) for step in callback.steps
    }
    assert kept == callback.measured
    callback.measured = {}
    assert callback._take_up(4) == [0, 2, 4]
    assert callback.measured == kept
    (folder / "step_000002/quantities.json").write_text("[1]")
    with refused(InvalidFile, path=folder / "step_000002/quantities.json"):
        callback._take_up(4)
    (folder / "step_000002/quantities.json").unlink()  # the checkpoint is not whole
    assert callback._take_up(4) == [0, 4]


def test_an_answer_is_the_likeliest_token_again_and_again(tokenizer):
    network = llama(len(tokenizer)).eval()
    short, long = PROMPTS[0], [{"role": "user", "content": "A prompt of more words than the other one has"}]
    found = greedy_answers([short, long], max_new_tokens=5).of(network, tokenizer)
    for name, prompt in (("answers/1", short), ("answers/2", long)):
        text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text)["input_ids"]
        begin = len(ids)
        with torch.no_grad():
            while len(ids) < begin + 5 and ids[-1] != tokenizer.eos_token_id:
                ids.append(int(network(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert found[name] == tokenizer.decode(ids[begin:], skip_special_tokens=True).strip()


def test_answers_are_kept_beside_the_numbers_and_change_no_bit_of_the_training(tokenizer, tmp_path):
    plain, losses, _ = train(tokenizer, tmp_path / "plain")
    folder = tmp_path / "recorded"
    asked = [greedy_answers(PROMPTS[:2], max_new_tokens=4), DICE]
    answered, same, callback = train(tokenizer, tmp_path / "asked", asked, folder=folder)
    assert losses == same
    assert all(map(torch.equal, plain.state_dict().values(), answered.state_dict().values()))
    assert set(callback.measured[4]) == {"answers/1", "answers/2", "dice/thrown"}
    assert json.loads((folder / "step_000004/quantities.json").read_text()) == callback.measured[4]


def test_answers_to_nothing_are_refused():
    with refused(name="prompts", got=[]):
        greedy_answers([])


def test_a_number_that_is_none_ends_no_training(tokenizer, tmp_path):
    lost = Quantity("lost", "nothing", lambda *_: {"all": math.nan})
    _, _, callback = train(tokenizer, tmp_path, [lost], folder=tmp_path / "recorded")
    assert math.isnan(callback.measured[4]["lost/all"])
    assert json.loads((tmp_path / "recorded/step_000004/quantities.json").read_text()) == {"lost/all": None}
    assert callback._take_up(4) == [0, 2, 4]
    assert math.isnan(callback.measured[2]["lost/all"])


def test_numbers_go_to_the_mlflow_run_that_is_active(tokenizer, tmp_path, fresh_store):
    with mlflow.start_run() as run:
        _, _, callback = train(tokenizer, tmp_path, [DICE])
    logged = mlflow.MlflowClient().get_metric_history(run.info.run_id, "dice/thrown")
    assert {metric.step: metric.value for metric in logged} == {
        step: found["dice/thrown"] for step, found in callback.measured.items()
    }


def test_what_cannot_be_measured_is_refused_by_name(tokenizer):
    network = llama(len(tokenizer))
    wrong = [
        ("name", lambda: Quantity("held-out loss", "", lambda *_: {})),
        ("quantities", lambda: TopologyCallback(PROMPTS, quantities=[DICE, DICE])),
        ("rows", lambda: held_out_loss({})),
        ("rows", lambda: held_out_loss({"own": []})),
        ("rows['own']", lambda: held_out_loss({"own": ROWS}, max_length=3).of(network, tokenizer)),
        ("measure of quantity 'one'", lambda: Quantity("one", "", lambda *_: 1.0).of(network, tokenizer)),
        ("measure of quantity 'list'", lambda: Quantity("list", "", lambda *_: {"a": [1]}).of(network, tokenizer)),
    ]  # fmt: skip
    for name, make in wrong:
        with refused(name=name):
            make()
