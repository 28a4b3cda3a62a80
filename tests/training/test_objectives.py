"""Text: what rows become, which are drawn, and that training never sees an evaluation prompt."""

import gzip
import json
import re
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import SHARED_DATA, assistant, in_another_process, refused, small_params, system, user

from topoflow.config import parse_params
from topoflow.errors import InvalidFile
from topoflow.storage import layout
from topoflow.study import stages
from topoflow.training.dialogues import identity, parse_rows
from topoflow.training.objectives import (
    evaluation_prompts,
    held_out_rows,
    jsonl_bytes,
    read_jsonl,
    training_rows,
)

reproducible = settings(deadline=None, derandomize=True, max_examples=100)


def write_rows(path, rows):
    path.write_bytes(jsonl_bytes(rows))
    return path


def file_mapping(folder, n_prompts=4, n_rows=6, seed=0, prompt_source=None, **objectives):
    """Params whose texts are the .jsonl files of a folder: prompts.jsonl and one an objective."""
    names = objectives or {path.stem: None for path in sorted(folder.glob("*.jsonl"))}
    sources = {
        name: source or {"source": "file", "path": str(folder / f"{name}.jsonl")}
        for name, source in names.items()
        if name != "prompts"
    }
    prompts = prompt_source or {"source": "file", "path": str(folder / "prompts.jsonl")}
    return {
        **small_params(),
        "seed": seed,
        "objectives": list(sources),
        "objective": sources,
        "prompts": {**prompts, "n_prompts": n_prompts},
        "prepare": {"n_rows": n_rows},
        "topology": {"subsample_size": 2},
    }


def file_params(*arguments, **changes):
    return parse_params(file_mapping(*arguments, **changes))


@contextmanager
def too_few(key, there_are, name, wanted):
    with refused(name=key, got=wanted, expected=f"({there_are} of {name!r})"):
        yield


@pytest.fixture
def texts(tmp_path):
    """Files with 20 rows of each of two objectives and 12 prompts."""
    for name in ("helpful", "harmless"):
        rows = [{"prompt": f"{name} {i}?", "completion": f"Answer {i}."} for i in range(20)]
        write_rows(tmp_path / f"{name}.jsonl", rows)
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": f"Prompt {i}?"} for i in range(12)])
    return tmp_path


MIXED = {"helpful": None, "harmless": None, "mixed": {"source": "mix", "of": {"helpful": 1, "harmless": 1}}}


class TestFiles:
    ROWS = ({"prompt": "Grüße\u2028?", "completion": "Ja."}, {"prompt": "Zwei", "completion": "2"})

    def test_plain_and_compressed_files_hold_the_same_rows(self, tmp_path):
        data = jsonl_bytes(self.ROWS)
        (tmp_path / "rows.jsonl").write_bytes(data)
        (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(data))
        for name in ("rows.jsonl", "rows.jsonl.gz"):
            assert list(read_jsonl(tmp_path / name)) == list(self.ROWS)

    def test_empty_lines_are_no_rows(self, tmp_path):
        (tmp_path / "rows.jsonl").write_text('\n{"a": 1}\n\n  \n{"a": 2}')
        assert list(read_jsonl(tmp_path / "rows.jsonl")) == [{"a": 1}, {"a": 2}]

    @pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
    @pytest.mark.parametrize("line", ["{", "{'a': 1}", "Hi.", '{"a": 1} {"b": 2}'])
    def test_bad_json_is_refused_with_the_number_of_its_line(self, tmp_path, name, line):
        data = f'{{"a": 1}}\n\n{line}\n'.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
        rows = read_jsonl(tmp_path / name)
        assert next(rows) == {"a": 1}
        with refused(InvalidFile, path=tmp_path / name, problem="line 3"):
            next(rows)

    @pytest.mark.parametrize(
        ("line", "where"), [("[1]", "row 1"), ('"text"', "line 1"), ("3", "line 1"), ("null", "line 1")]
    )
    def test_json_that_is_no_object_is_refused_with_the_number_of_its_line(self, tmp_path, line, where):
        (tmp_path / "rows.jsonl").write_text(line)
        with refused(InvalidFile, path=tmp_path / "rows.jsonl", problem=where) as caught:
            list(read_jsonl(tmp_path / "rows.jsonl"))
        assert caught.value.remedy == "write one object a line"

    def test_a_missing_file_is_refused(self, tmp_path):
        for path in (tmp_path / "none.jsonl", tmp_path):
            with refused(InvalidFile, path=path):
                list(read_jsonl(path))

    def test_equal_rows_have_equal_bytes_whatever_the_order_of_their_keys(self):
        assert jsonl_bytes([{"b": 1, "a": "é"}]) == jsonl_bytes([{"a": "é", "b": 1}])
        assert jsonl_bytes([{"a": "é"}, {"a": 2}]) == '{"a": "é"}\n{"a": 2}\n'.encode()
        assert jsonl_bytes([]) == b""


class TestEvaluationPrompts:
    def test_they_are_as_many_as_asked_for_distinct_and_from_the_source(self, texts):
        prompts = evaluation_prompts(file_params(texts, n_prompts=7))
        contents = [message["content"] for (message,) in prompts]
        assert len(contents) == len(set(contents)) == 7
        assert set(contents) <= {f"Prompt {i}?" for i in range(12)}

    def test_the_seed_alone_chooses_them(self, texts):
        drawn = evaluation_prompts(file_params(texts, n_prompts=7, seed=1))
        assert evaluation_prompts(file_params(texts, n_prompts=7, seed=1, n_rows=2)) == drawn
        for other in (0, 2, 2**32 - 1):
            assert evaluation_prompts(file_params(texts, n_prompts=7, seed=other)) != drawn

    def test_they_are_not_just_the_first_of_the_source(self, texts):
        contents = {p[0]["content"] for p in evaluation_prompts(file_params(texts, n_prompts=6))}
        assert contents != {f"Prompt {i}?" for i in range(6)}

    def test_they_are_the_same_for_every_objective(self, texts):
        wanted = evaluation_prompts(file_params(texts))
        assert evaluation_prompts(file_params(texts, helpful=None)) == wanted
        assert evaluation_prompts(file_params(texts, **MIXED)) == wanted

    def test_prompts_that_differ_in_case_and_white_space_count_once(self, texts):
        alike = ["Hi there?", "hi  there?", " HI\nTHERE? ", "hi\tthere?"]
        write_rows(texts / "prompts.jsonl", [{"prompt": text} for text in [*alike, "Hi, there?"]])
        assert len(evaluation_prompts(file_params(texts, n_prompts=2))) == 2
        with too_few("prompts.n_prompts", 2, "prompts", 3):
            evaluation_prompts(file_params(texts, n_prompts=3))

    def test_all_prompts_there_are_may_be_taken(self, texts):
        assert len(evaluation_prompts(file_params(texts, n_prompts=12))) == 12

    def test_of_dialogues_the_prompt_is_taken_and_the_answer_is_not(self, texts):
        messages = [user("A"), assistant("B"), user("C"), assistant("D")]
        write_rows(texts / "prompts.jsonl", [{"messages": messages}, {"prompt": "E", "completion": "F"}])
        prompts = evaluation_prompts(file_params(texts, n_prompts=2))
        assert sorted(prompts, key=len) == [[user("E")], messages[:3]]


class TestTrainingRows:
    def test_they_are_as_many_as_asked_for_distinct_and_of_the_objective(self, texts):
        rows = training_rows(file_params(texts, n_rows=15), "helpful", [])
        prompts = [row["prompt"][0]["content"] for row in rows]
        assert len(prompts) == len(set(prompts)) == 15
        assert set(prompts) <= {f"helpful {i}?" for i in range(20)}
        for row in rows:  # each with its own answer
            (number,) = re.findall(r"\d+", row["prompt"][0]["content"])
            assert row["completion"] == [assistant(f"Answer {number}.")]

    def test_the_seed_chooses_them_and_their_order(self, texts):
        drawn = training_rows(file_params(texts, seed=1), "helpful", [])
        assert training_rows(file_params(texts, seed=1), "helpful", []) == drawn
        assert training_rows(file_params(texts, seed=2), "helpful", []) != drawn
        assert drawn != sorted(drawn, key=str)

    def test_two_objectives_of_one_seed_are_drawn_apart(self, texts):
        params = file_params(texts, n_rows=20)
        orders = [
            [
                int(re.findall(r"\d+", row["prompt"][0]["content"])[0])
                for row in training_rows(params, name, [])
            ]
            for name in ("helpful", "harmless")
        ]
        assert orders[0] != orders[1]

    @reproducible
    @given(data=st.data())
    def test_no_evaluation_prompt_is_among_them_whatever_its_case_and_white_space(
        self, tmp_path_factory, data
    ):
        folder = tmp_path_factory.mktemp("texts")
        spaces = st.text(" \t\n\u00a0", min_size=1, max_size=3)

        def disguised(text):
            words = [data.draw(st.sampled_from([w, w.upper(), w.title()])) for w in text.split()]
            return data.draw(spaces) + data.draw(spaces).join(words) + data.draw(spaces)

        prompts = [f"is straße number {i} long?" for i in range(4)]
        write_rows(folder / "prompts.jsonl", [{"prompt": text} for text in prompts])
        rows = [{"prompt": disguised(text), "completion": "No."} for text in prompts]
        rows += [{"prompt": f"other {i}", "completion": "Yes."} for i in range(3)]
        write_rows(folder / "helpful.jsonl", rows)
        params = file_params(folder, n_prompts=4, n_rows=3)
        drawn = training_rows(params, "helpful", evaluation_prompts(params))
        assert sorted(row["prompt"][0]["content"] for row in drawn) == ["other 0", "other 1", "other 2"]

    def test_a_dialogue_that_goes_on_from_an_evaluation_prompt_holds_it_as_well(self, texts):
        rows = [
            {"messages": [user("Prompt 0?"), assistant("B"), user("C"), assistant("D")]},
            {"messages": [user("X"), assistant("B"), user("Y"), assistant("D")]},
        ]
        write_rows(texts / "helpful.jsonl", rows)
        prompts = [[user("prompt  0?")]]
        drawn = training_rows(file_params(texts, n_rows=1), "helpful", prompts)
        assert [row["prompt"][0] for row in drawn] == [user("X")]
        with too_few("prepare.n_rows", 1, "helpful", 2):
            training_rows(file_params(texts, n_rows=2), "helpful", prompts)

    @pytest.mark.parametrize(("trained", "held_out"), [(2, 2), (2, 3), (2, 5), (4, 5)])
    def test_a_dialogue_that_an_evaluation_prompt_goes_on_from_is_left_out(self, texts, trained, held_out):
        dialogue = [user("A"), assistant("B"), user("C"), assistant("D"), user("E")]
        rows = [{"messages": dialogue[:trained]}, {"messages": [user("X"), assistant("B")]}]
        write_rows(texts / "helpful.jsonl", rows)
        prompts = [[{**turn, "content": f" {turn['content'].lower()}"} for turn in dialogue[:held_out]]]
        drawn = training_rows(file_params(texts, n_rows=1), "helpful", prompts)
        assert [row["prompt"][0] for row in drawn] == [user("X")]
        with too_few("prepare.n_rows", 1, "helpful", 2):
            training_rows(file_params(texts, n_rows=2), "helpful", prompts)

    def test_another_role_or_another_turn_makes_another_prompt(self, texts):
        write_rows(texts / "helpful.jsonl", [{"messages": [user("A"), assistant("B")]}])
        params = file_params(texts, n_rows=1)
        for prompt in ([system("A")], [user("A"), assistant("C"), user("C")], [user("A B")]):
            assert len(training_rows(params, "helpful", [prompt])) == 1

    def test_rows_that_differ_in_case_and_white_space_count_once(self, texts):
        rows = [{"prompt": "Hi?", "completion": c} for c in ("Yes.", "yes.", " YES. ", "No.")]
        write_rows(texts / "helpful.jsonl", rows)
        assert len(training_rows(file_params(texts, n_rows=2), "helpful", [])) == 2
        with too_few("prepare.n_rows", 2, "helpful", 3):
            training_rows(file_params(texts, n_rows=3), "helpful", [])

    def test_rows_that_hold_an_evaluation_prompt_do_not_count(self, texts):
        prompts = [[user(f"helpful {i}?")] for i in range(15)]
        assert len(training_rows(file_params(texts, n_rows=5), "helpful", prompts)) == 5
        with too_few("prepare.n_rows", 5, "helpful", 6):
            training_rows(file_params(texts, n_rows=6), "helpful", prompts)

    def test_prompts_without_an_answer_are_no_training_rows(self, texts):
        write_rows(texts / "helpful.jsonl", [{"prompt": "A"}, {"prompt": "B", "completion": "C"}])
        rows = training_rows(file_params(texts, n_rows=1), "helpful", [])
        assert rows == [{"prompt": [user("B")], "completion": [assistant("C")]}]
        with too_few("prepare.n_rows", 1, "helpful", 2):
            training_rows(file_params(texts, n_rows=2), "helpful", [])

    def test_an_unknown_objective_is_refused(self, texts):
        with refused(name="objective", expected="one of harmless, helpful", got="mean"):
            training_rows(file_params(texts), "mean", [])


class TestMixes:
    def test_half_of_each_comes_from_the_rows_that_the_objectives_draw_alone(self, texts):
        params = file_params(texts, n_rows=10, **MIXED)
        alone = {name: training_rows(params, name, []) for name in ("helpful", "harmless")}
        mixed = training_rows(params, "mixed", [])
        assert len(mixed) == 10
        # of the 20 rows there are of each, every objective draws 10 alone: chance would hit others
        assert [sum(row in rows for row in mixed) for rows in alone.values()] == [5, 5]

    def test_the_parts_are_shuffled_together(self, texts):
        params = file_params(texts, n_rows=20, **MIXED)
        first = [row["prompt"][0]["content"].split()[0] for row in training_rows(params, "mixed", [])][:10]
        assert set(first) == {"helpful", "harmless"}

    @reproducible
    @given(shares=st.lists(st.floats(0.01, 100), min_size=2, max_size=2), n_rows=st.integers(1, 20))
    def test_shares_are_relative_and_the_rows_are_all_there(self, tmp_path_factory, shares, n_rows):
        folder = tmp_path_factory.mktemp("texts")
        for name in ("helpful", "harmless"):
            rows = [{"prompt": f"{name} {i}", "completion": "x"} for i in range(20)]
            write_rows(folder / f"{name}.jsonl", rows)
        mix = {"source": "mix", "of": dict(zip(("helpful", "harmless"), shares, strict=True))}
        params = file_params(folder, n_rows=n_rows, helpful=None, harmless=None, mixed=mix)
        rows = training_rows(params, "mixed", [])
        assert len(rows) == n_rows
        n_helpful = sum(row["prompt"][0]["content"].startswith("helpful") for row in rows)
        assert abs(n_helpful - n_rows * shares[0] / np.sum(shares)) <= 0.5 + 1e-9

    def test_no_part_holds_an_evaluation_prompt(self, texts):
        params = file_params(texts, n_rows=20, **MIXED)
        prompts = [[user(f"{name} {i}?")] for i in range(10) for name in ("HELPFUL", "HARMLESS")]
        rows = training_rows(params, "mixed", prompts)
        assert {int(re.findall(r"\d+", row["prompt"][0]["content"])[0]) for row in rows} == set(range(10, 20))

    def test_a_part_with_too_few_rows_is_named(self, texts):
        write_rows(texts / "harmless.jsonl", [{"prompt": "A", "completion": "B"}])
        params = file_params(texts, n_rows=10, **MIXED)
        with too_few("prepare.n_rows", 1, "harmless", 5):
            training_rows(params, "mixed", [])

    def test_prompts_drawn_from_a_mix_come_from_its_parts_in_their_shares(self, texts):
        of = {"helpful": 3, "harmless": 1}
        params = file_params(texts, n_prompts=20, n_rows=6, prompt_source={"source": "mix", "of": of})
        prompts = evaluation_prompts(params)
        sources = [prompt[0]["content"].split()[0] for prompt in prompts]
        assert (sources.count("helpful"), sources.count("harmless")) == (15, 5)
        with too_few("prepare.n_rows", 5, "helpful", 6):
            training_rows(params, "helpful", prompts)

    def test_prompts_that_two_parts_of_a_mix_share_count_once(self, texts):
        for name in ("helpful", "harmless"):
            write_rows(texts / f"{name}.jsonl", [{"prompt": f"{i}"} for i in range(4)])
        of = {"helpful": 1, "harmless": 1}
        prompts = evaluation_prompts(
            file_params(texts, n_prompts=4, prompt_source={"source": "mix", "of": of})
        )
        assert sorted(prompt[0]["content"] for prompt in prompts) == ["0", "1", "2", "3"]


SHUFFLED = {"source": "shuffled", "of": "helpful"}


def asked(row):
    return [message["content"] for message in row["prompt"]]


def answered(row):
    return row["completion"][0]["content"]


class TestControls:
    def test_a_shuffled_objective_has_the_same_prompts_in_their_places_and_the_answers_in_others(self, texts):
        params = file_params(texts, n_rows=15, helpful=None, control=SHUFFLED)
        rows, control = (training_rows(params, name, []) for name in ("helpful", "control"))
        assert [asked(row) for row in control] == [asked(row) for row in rows]
        assert sorted(map(answered, control)) == sorted(map(answered, rows))
        assert all(answered(a) != answered(b) for a, b in zip(rows, control, strict=True))

    def test_it_is_drawn_by_the_seed_of_the_study_and_its_own_name(self, texts):
        def drawn(name, seed):
            params = file_params(texts, n_rows=15, seed=seed, helpful=None, one=SHUFFLED, two=SHUFFLED)
            return jsonl_bytes(training_rows(params, name, []))

        assert drawn("one", 1) == drawn("one", 1)
        assert len({drawn("one", 1), drawn("two", 1), drawn("one", 2)}) == 3

    def test_of_a_dialogue_the_last_answer_moves_and_what_was_said_before_stays(self, texts):
        turns = "\n\nHuman: First {0}?\n\nAssistant: Yes {0}.\n\nHuman: And {0}?\n\nAssistant: No {0}."
        write_rows(texts / "helpful.jsonl", [{"chosen": turns.format(i)} for i in range(6)])
        params = file_params(texts, helpful=None, control=SHUFFLED)
        for row in training_rows(params, "control", []):
            number = row["prompt"][0]["content"].split()[1].strip("?")
            assert asked(row) == [f"First {number}?", f"Yes {number}.", f"And {number}?"]
            assert answered(row).startswith("No ")
            assert answered(row) != f"No {number}."

    @reproducible
    @given(
        rows=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=4, max_size=12, unique=True)
    )
    def test_no_prompt_keeps_an_answer_of_its_own_where_rows_share_some(self, tmp_path_factory, rows):
        folder = tmp_path_factory.mktemp("texts")
        write_rows(folder / "prompts.jsonl", [{"prompt": f"Prompt {i}?"} for i in range(4)])
        write_rows(folder / "helpful.jsonl", [{"prompt": f"{a}?", "completion": f"{b}."} for a, b in rows])
        params = file_params(folder, n_rows=len(rows), helpful=None, control=SHUFFLED)
        groups = _groups_of(rows)
        largest = max(groups.count(group) for group in groups)
        if 4 * largest > 3 * len(rows):
            with refused(name="objective.control.of", got="helpful"):
                training_rows(params, "control", [])
            return
        own = {(f"{a}?", f"{b}.") for a, b in rows}
        control = training_rows(params, "control", [])
        kept = sum((asked(row)[0], answered(row)) in own for row in control)
        assert kept <= max(0, 2 * largest - len(rows))
        assert sorted(map(answered, control)) == sorted(f"{b}." for _, b in rows)

    def test_a_mix_is_shuffled_as_a_whole(self, texts):
        mixed = {**MIXED, "control": {"source": "shuffled", "of": "mixed"}}
        params = file_params(texts, n_rows=12, **mixed)
        rows, control = (training_rows(params, name, []) for name in ("mixed", "control"))
        assert [asked(row) for row in control] == [asked(row) for row in rows]
        assert sorted(map(answered, control)) == sorted(map(answered, rows))

    def test_a_variant_has_the_rows_of_its_objective(self, texts):
        still = {"source": "variant", "of": "helpful", "finetune": {"learning_rate": 0}}
        params = file_params(
            texts, helpful=None, control=SHUFFLED, still=still, both={**still, "of": "control"}
        )
        for name, of in (("still", "helpful"), ("both", "control")):
            assert training_rows(params, name, []) == training_rows(params, of, [])

    def test_the_file_of_a_variant_has_the_same_lines_after_one_that_says_what_is_other(
        self, texts, monkeypatch
    ):
        monkeypatch.chdir(texts)
        still = {"source": "variant", "of": "helpful", "finetune": {"learning_rate": 0}}
        params = file_params(texts, helpful=None, still=still)
        stages.prompts(params)
        for name in ("helpful", "still"):
            stages.prepare(params, name)
        first, *rest = layout.rows_file("still").read_text().splitlines()
        assert json.loads(first) == {"finetune": {"learning_rate": 0}}
        assert rest == layout.rows_file("helpful").read_text().splitlines()
        assert layout.read_training_rows("still") == layout.read_training_rows("helpful")
        assert not stages.writes_something_else(params, "prepare@still")


def _groups_of(rows):
    """Numbers of groups of rows that share a prompt or an answer, directly or by others."""
    groups = list(range(len(rows)))
    for _ in rows:
        for i, (a, b) in enumerate(rows):
            groups[i] = min(groups[j] for j, (c, d) in enumerate(rows) if a == c or b == d)
    return groups


class TestBundledText:
    PARAMS = parse_params(
        {
            **small_params(),
            "seed": 3,
            "prompts": {"source": "samples", "name": "prompts", "n_prompts": 200},
            "prepare": {"n_rows": 100},
        }
    )
    SCRIPT = """
import sys, json
from topoflow.config import parse_params
from topoflow.training.objectives import evaluation_prompts, jsonl_bytes, training_rows
from topoflow.storage import sha256
params = parse_params(json.loads(sys.argv[1]))
prompts = evaluation_prompts(params)
print(sha256(jsonl_bytes(prompts)), sha256(jsonl_bytes(training_rows(params, "mixed", prompts))))
"""

    def test_it_has_prompts_and_rows_for_every_objective(self):
        prompts = evaluation_prompts(self.PARAMS)
        assert len(prompts) == 200
        for objective in self.PARAMS.objectives:
            rows = training_rows(self.PARAMS, objective, prompts)
            assert len(rows) == 100
            assert all(row["prompt"] not in prompts for row in rows)

    def test_its_bytes_are_the_same_in_processes_that_hash_differently(self, texts):
        mapping = file_mapping(texts, n_prompts=8, n_rows=12, **MIXED)
        printed = {
            in_another_process(self.SCRIPT, json.dumps(mapping), PYTHONHASHSEED=seed) for seed in ("1", "2")
        }
        assert len(printed) == 1


class TestHub:
    def test_a_dataset_is_asked_for_by_id_folder_revision_and_split(self, texts, monkeypatch):
        calls = []

        def load_dataset(*args, **kwargs):
            calls.append((args, kwargs))
            return [{"chosen": f"\n\nHuman: {i}?\n\nAssistant: {i}."} for i in range(3)]

        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
        source = {"source": "hub", "id": "Anthropic/hh-rlhf", "data_dir": "helpful-base", "revision": "abc"}
        rows = training_rows(file_params(texts, n_rows=3, helpful=source), "helpful", [])
        assert sorted(row["prompt"][0]["content"] for row in rows) == ["0?", "1?", "2?"]
        keywords = {"data_dir": "helpful-base", "revision": "abc", "split": "train"}
        assert calls == [(("Anthropic/hh-rlhf",), keywords)]


def real_rows(*parts):
    path = SHARED_DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    raw = list(read_jsonl(path))
    return raw, list(parse_rows(raw, path.name))


def assert_well_formed(rows):
    for row in rows:
        (answer,) = row["completion"]
        assert answer["role"] == "assistant"
        turns = [*row["prompt"], answer]
        assert all(message["content"] == message["content"].strip() != "" for message in turns)
        assert [message["role"] for message in turns] == ["user", "assistant"] * (len(turns) // 2)


@pytest.mark.real
def test_hh_rlhf_as_published_parses():
    raw, rows = real_rows("hh-rlhf", "harmless-base", "test.jsonl.gz")
    assert_well_formed(rows)
    assert len(rows) > 2000
    # all that is left out are dialogues that end without an answer
    unanswered = [row for row in raw if not row["chosen"].rpartition("Assistant:")[2].strip()]
    assert len(raw) - len(rows) == len(unanswered) < 10
    # nothing of an answer gets lost on the way
    answered = [row for row in raw if row["chosen"].rpartition("Assistant:")[2].strip()]
    for before, after in zip(answered, rows, strict=True):
        last_turn = before["chosen"].rpartition("\n\nAssistant:")[2].strip()
        assert after["completion"][0]["content"].endswith(last_turn)


@pytest.mark.real
def test_alpaca_eval_parses():
    raw, rows = real_rows("alpaca-eval", "helpful.jsonl.gz")
    assert_well_formed(rows)
    empty = [row for row in raw if not row["completion"].strip()]
    assert len(raw) - len(rows) == len(empty) < 10
    assert [row["prompt"][0]["content"] for row in rows] == [
        row["prompt"].strip() for row in raw if row["completion"].strip()
    ]


# named: a compressed file holds the time at which it was made, and pytest-xdist wants one name everywhere
@pytest.mark.parametrize(
    "data", [b"not gzip", gzip.compress(b'{"prompt": "a"}\n' * 999)[:-9]], ids=["not-gzip", "cut-short"]
)
def test_a_broken_archive_is_named(tmp_path, data):
    (tmp_path / "rows.jsonl.gz").write_bytes(data)
    with refused(InvalidFile, path=tmp_path / "rows.jsonl.gz"):
        list(read_jsonl(tmp_path / "rows.jsonl.gz"))


class TestHeldOut:
    def made(self, objectives=None, **prepare):
        sources = {
            "helpful": {"source": "samples", "name": "helpful"},
            "harmless": {"source": "samples", "name": "harmless"},
            "mixed": {"source": "mix", "of": {"helpful": 0.5, "harmless": 0.5}},
            "shuffled": {"source": "shuffled", "of": "mixed"},
        }
        changes = {"objectives": ["helpful"], "objective": objectives or sources, "prepare": prepare}
        return parse_params({**small_params(), **changes})

    def test_they_are_further_rows_that_ask_nothing_that_is_trained_on(self):
        params = self.made(n_rows=600, held_out=64)
        prompts = evaluation_prompts(params)
        held = held_out_rows(params, "helpful", prompts)
        asked = {identity(row["prompt"]) for row in training_rows(params, "helpful", prompts)}
        assert {name: len(rows) for name, rows in held.items()} == {"helpful": 64}
        assert not asked & {identity(row["prompt"]) for row in held["helpful"]}
        assert not {identity(row["prompt"]) for row in held["helpful"]} & set(map(identity, prompts))
        assert held == held_out_rows(params, "helpful", prompts)

    @pytest.mark.parametrize(
        ("objective", "of", "names"),
        [
            ("helpful", [], ["helpful"]),
            ("helpful", ["harmless"], ["helpful", "harmless"]),
            ("mixed", [], ["helpful", "harmless"]),
            ("shuffled", ["helpful"], ["helpful", "harmless"]),
        ],
    )
    def test_they_are_of_the_objective_or_what_it_is_made_of_and_of_those_that_are_named(
        self, objective, of, names
    ):
        params = self.made(n_rows=600, held_out=5, held_out_of=of)
        assert list(held_out_rows(params, objective, evaluation_prompts(params))) == names
        alone = held_out_rows(params, "helpful", evaluation_prompts(params))["helpful"]
        if "helpful" in names:  # a mix and its parts are held against the same rows
            assert held_out_rows(params, objective, evaluation_prompts(params))["helpful"] == alone

    def test_where_too_few_are_left_they_are_fewer_and_none_is_no_error(self, tmp_path):
        rows = [{"prompt": f"Question {i}?", "completion": f"Answer {i}."} for i in range(10)]
        rows += [{"prompt": "Question 0?", "completion": "Another answer."}]
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        few = {
            "mine": {"source": "file", "path": str(path)},
            "helpful": {"source": "samples", "name": "helpful"},
        }
        counts = []
        for n_rows in (4, 8, 11):
            params = self.made(few, n_rows=n_rows, held_out=5)
            held = held_out_rows(params, "mine", evaluation_prompts(params)).get("mine", [])
            trained = training_rows(params, "mine", evaluation_prompts(params))
            counts.append(len(held))
            assert not {identity(r["prompt"]) for r in held} & {identity(r["prompt"]) for r in trained}
        assert counts[0] == 5
        assert counts[1] in (2, 3)  # both answers to one question may be among those that are left
        assert counts[2] == 0

    def test_none_are_held_out_where_none_are_asked_for_and_the_manifest_is_as_before(self):
        params = self.made(n_rows=600)
        assert held_out_rows(params, "mixed", evaluation_prompts(params)) == {}
        assert params.sources("tiny", "helpful")["prepare"] == {"n_rows": 600}
        with refused(name="prepare.held_out_of"):
            self.made(n_rows=600, held_out=5, held_out_of=["helpfull"])
