"""What stages say of how far they are, where there is no terminal."""

import pytest
from support import rows
from transformers import TrainerControl, TrainerState, TrainingArguments

from topoflow import telling
from topoflow.config import Finetune, Schedule
from topoflow.recording.callback import TopologyCallback
from topoflow.training import sft

ROWS = rows(4)


@pytest.fixture
def recording():
    return TopologyCallback(["Hello?", "Where?"], [2, 4], Schedule(steps=(1, 3)), batch_size=2)


def test_a_training_says_a_line_of_each_checkpoint_with_the_loss_of_that_step(
    model, tokenizer, tmp_path, recording, capsys
):
    settings = Finetune(max_steps=4, per_device_train_batch_size=2, lora=None)
    callbacks = [telling.at_checkpoints(recording)]
    _, log = sft.finetune(model, tokenizer, ROWS, settings, 0, tmp_path, recording, callbacks)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    losses = {entry["step"]: entry["loss"] for entry in log if "loss" in entry}
    what = "2 prompts recorded at layers 2, 4"
    assert lines[0] == f"step 0 of 4: {what}"
    for line, step in zip(lines[1:], (1, 3, 4), strict=True):
        assert line.startswith(f"step {step} of 4: loss {losses[step]:.4g}, {what}")
        assert line.endswith(" left") == (step < 4)


def test_checkpoints_of_a_finished_training_are_counted(model, tokenizer, tmp_path, recording, capsys):
    recording.on_record = telling.of_finished(recording, [2, 8, 9])
    arguments = TrainingArguments(str(tmp_path), report_to="none")
    told = {"model": model, "processing_class": tokenizer}
    begin, *further = (TrainerState(global_step=step, max_steps=step) for step in (2, 8, 9))
    recording.on_train_begin(arguments, begin, TrainerControl(), **told)
    for state in further:
        recording.on_step_end(arguments, state, TrainerControl(), **told)
    what = "2 prompts recorded at layers 2, 4"
    first, second, last = capsys.readouterr().err.splitlines()
    assert first == f"checkpoint 1 of 3, step 2: {what}"
    assert second.startswith(f"checkpoint 2 of 3, step 8: {what}, about ")
    assert last == f"checkpoint 3 of 3, step 9: {what}"


def test_many_cells_are_told_of_each_ten_seconds_and_nothing_of_few(monkeypatch, capsys):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(telling.time, "monotonic", lambda: next(clock))
    assert list(telling.counted("abcdefgh", 8, "cells")) == list("abcdefgh")
    # the first item, at 4 s, is not counted in what the others take, 4 s each
    assert capsys.readouterr().err.splitlines() == [
        "cells: 3 of 8, about 20 s left",
        "cells: 6 of 8, about 8 s left",
    ]
    assert list(telling.counted("ab", 2, "cells")) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_a_stage_is_named_where_dvc_does_not_name_it(monkeypatch, capsys):
    monkeypatch.setenv("DVC_STAGE", "prompts\x1b[31m")
    telling.name_stage()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv(telling.NAMES_STAGES, "1")
    telling.name_stage()
    assert capsys.readouterr().err == "Running stage 'prompts\\x1b[31m'\n"
