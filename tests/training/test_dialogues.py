"""One dialogue, however it was written down: rows of every form become the same, or are left out for a reason."""

from __future__ import annotations

import csv
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assistant, refused, small_params, system, user

from topoflow.config import MixedText, parse_params
from topoflow.errors import InvalidFile
from topoflow.study import stages
from topoflow.training import dialogues, objectives


def params_of(path, n_rows):
    sources = {"objective": {"mine": {"source": "file", "path": str(path)}}, "objectives": ["mine"]}
    return parse_params({**small_params(), **sources, "prepare": {"n_rows": n_rows}})


QUESTION, ANSWER = user("Name a river."), assistant("The Elbe.")
MORE = [QUESTION, ANSWER, user("And another?"), assistant("The Rhine.")]
HH = "\n\nHuman: Name a river.\n\nAssistant:"

# Each is the question and the answer, once
SPELLINGS = {
    "prompt, completion": {"prompt": "Name a river.", "completion": "The Elbe."},
    "white space around": {"prompt": " Name a river.\n", "completion": "\nThe Elbe. "},
    "a column more": {"prompt": "Name a river.", "completion": "The Elbe.", "subset": "helpful_base"},
    "messages, completion": {"prompt": [QUESTION], "completion": "The Elbe."},
    "prompt, messages": {"prompt": "Name a river.", "completion": [ANSWER]},
    "messages twice": {"prompt": [QUESTION], "completion": [ANSWER]},
    "messages that say more": {
        "messages": [{**user(" Name a river. "), "name": "x"}, {**assistant("The Elbe.\n"), "weight": 1}],
        "extra": 3,
    },
    "preference": {"prompt": "Name a river.", "chosen": "The Elbe.", "rejected": "No."},
    "prompt and chosen with the prompt": {
        "prompt": "Name a river.",
        "chosen": [QUESTION, ANSWER],
        "rejected": [QUESTION, assistant("No.")],
    },
    "TRL's preference": {"prompt": [QUESTION], "chosen": [ANSWER], "rejected": [assistant("No.")]},
    "TRL's implicit prompt": {"chosen": [QUESTION, ANSWER], "rejected": [QUESTION, assistant("No.")]},
    "both lists": {"prompt": [QUESTION], "chosen": [QUESTION, ANSWER]},
    "prompt and messages": {"prompt": " name a RIVER. ", "messages": [QUESTION, ANSWER]},
    "HH": {"chosen": HH + " The Elbe.", "rejected": HH + " No."},
    **{f"HH after {n} line ends": {"chosen": "\n" * n + HH.lstrip() + " The Elbe."} for n in (0, 1, 4)},
    "HH with CRLF": {"chosen": (HH + " The Elbe.").replace("\n", "\r\n")},
    "HH, prompt apart": {"prompt": HH, "chosen": HH + " The Elbe."},
    "HH, prompt and answer apart": {"prompt": HH, "chosen": " The Elbe."},
    "HH, plain prompt": {"prompt": "Name a river.", "chosen": HH + " The Elbe."},
    "ShareGPT": {
        "conversations": [{"from": "human", "value": "Name a river."}, {"from": "gpt", "value": "The Elbe."}]
    },
    "Alpaca": {"instruction": "Name a river.", "input": "", "output": "The Elbe."},
    "columns of a table": {
        "prompt": None,
        "messages": [{**QUESTION, "tool_calls": None}, ANSWER],
        "tools": None,
    },
}


def parsed(*rows):
    left_out = Counter()
    return list(dialogues.parse_rows(rows, "here", left_out)), left_out


@pytest.mark.parametrize("row", SPELLINGS.values(), ids=SPELLINGS)
def test_the_prompt_stands_once_however_it_is_written(row):
    assert parsed(row) == ([{"prompt": [QUESTION], "completion": [ANSWER]}], Counter())


@pytest.mark.parametrize("row", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize(
    "asked", [[QUESTION], [system("Be brief."), QUESTION]], ids=["alone", "under a system"]
)
def test_a_row_whose_prompt_is_an_evaluation_prompt_is_held_out_however_it_is_written(tmp_path, row, asked):
    rows = [row, {"prompt": "Name a sea.", "completion": "The Baltic."}]
    (tmp_path / "helpful.json").write_text(json.dumps(rows), encoding="utf-8")
    params = params_of(tmp_path / "helpful.json", 1)
    left_out = Counter()
    (drawn,) = objectives.training_rows(params, "mine", [asked], left_out)
    assert drawn["prompt"] == [user("Name a sea.")]
    assert left_out[objectives.HELD_OUT] == 1


@pytest.mark.parametrize(
    "row",
    [
        {"messages": MORE},
        {
            "chosen": HH + " The Elbe.\n\nHuman: And another?\n\nAssistant: The Rhine.",
            "rejected": HH + " No.",
        },
        {"prompt": "Name a river.", "messages": MORE},
        {"prompt": "And another?", "messages": MORE},
        {"prompt": MORE[:3], "chosen": MORE},
        {"prompt": MORE[:2], "completion": MORE[2:]},
        {"prompt": HH, "completion": " The Elbe.\n\nHuman: And another?\n\nAssistant: The Rhine."},
    ],
)
def test_turns_after_the_prompt_belong_to_it_up_to_the_last_answer(row):
    assert parsed(row)[0] == [{"prompt": MORE[:3], "completion": MORE[3:]}]


@pytest.mark.parametrize(
    "answer",
    [
        "He said Human: be kind.",
        "A script:\nHuman: Hi.\nAssistant: Hello.",
        "One.\n\nTwo.\n\nThe Human: a story.",
        "One.\n\nHumans: all of us.",
        "One.\n\n Human: indented.",
        "Human: first.",
    ],
)
def test_a_speaker_named_inside_an_answer_starts_no_turn(answer):
    assert parsed({"chosen": f"{HH} {answer}"})[0] == [
        {"prompt": [QUESTION], "completion": [assistant(answer)]}
    ]


@pytest.mark.parametrize(
    ("row", "prompt", "completion"),
    [
        (
            {"chosen": "Human: A\n\nHuman: B\n\nHuman: C\n\nAssistant: D\n\nAssistant: E"},
            [user("A\n\nB\n\nC")],
            [assistant("D\n\nE")],
        ),
        (
            {"chosen": "Human: A\n\nAssistant: \n\nHuman: B\n\nAssistant: C"},
            [user("A\n\nB")],
            [assistant("C")],
        ),
        *(
            # a prompt alone as well, or a training row with the same prompt would not be seen to hold it
            (
                {"prompt": [user("A"), user("B"), assistant(" "), user("C")], **answer},
                [user("A\n\nB\n\nC")],
                found,
            )
            for answer, found in (({}, []), ({"completion": "D"}, [assistant("D")]))
        ),
    ],
)
def test_turns_of_one_speaker_in_a_row_are_joined_in_order_over_an_empty_one(row, prompt, completion):
    assert parsed(row)[0] == [{"prompt": prompt, "completion": completion}]


@pytest.mark.parametrize(("prompt", "messages"), [("Hi.", [user("Hi.")]), (MORE[:3], MORE[:3])])
def test_a_prompt_alone_has_an_empty_completion(prompt, messages):
    assert parsed({"prompt": prompt}) == ([{"prompt": messages, "completion": []}], Counter())


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    turns=st.lists(
        st.text(min_size=1).map(str.strip).filter(lambda text: text and "\n\n" not in text), min_size=1
    )
)
def test_a_dialogue_written_as_hh_is_read_back(turns):
    speakers = ["Human", "Assistant"] * len(turns)
    text = "".join(f"\n\n{who}: {turn}" for who, turn in zip(speakers, turns, strict=False))
    says = [user, assistant] * len(turns)
    assert dialogues.parse_dialogue(text) == [say(turn) for say, turn in zip(says, turns, strict=False)]


def test_a_system_message_is_kept_wherever_it_stands():
    wanted = [{"prompt": [system("Be brief."), QUESTION], "completion": [ANSWER]}]
    told = [{"from": "human", "value": "Name a river."}, {"from": "gpt", "value": "The Elbe."}]
    for row in (
        {"messages": [system("Be brief."), QUESTION, ANSWER]},
        {"prompt": [system("Be brief."), QUESTION], "completion": [ANSWER]},
        {"conversations": [{"from": "system", "value": "Be brief."}, *told]},
        {"system": "Be brief.", "conversations": told},
        {"prompt": [system("Be brief."), QUESTION], "chosen": [QUESTION, ANSWER]},
        {"prompt": "Name a river.", "messages": [system("Be brief."), QUESTION, ANSWER]},
        {"system": "Be brief.", "instruction": "Name a river.", "output": "The Elbe."},
    ):
        assert parsed(row)[0] == wanted


def test_an_input_of_alpaca_stands_after_an_empty_line():
    row = {"instruction": "Translate to German.", "input": "bridge", "output": "Brücke"}
    assert parsed(row)[0][0]["prompt"] == [user("Translate to German.\n\nbridge")]


CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"function": {"name": "weather", "arguments": "{}"}}],
}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [QUESTION, CALL, {"role": "tool", "content": "19"}, ANSWER]}, dialogues.TOOLS),
        ({"messages": [QUESTION, ANSWER], "tools": [{"name": "weather"}]}, dialogues.TOOLS),
        ({"conversations": [{"from": "function_call", "value": "{}"}]}, dialogues.TOOLS),
        ({"prompt": "Name a sea.", "chosen": [QUESTION, ANSWER]}, dialogues.TWO_DIALOGUES),
        ({"chosen": "The Elbe."}, dialogues.NO_TURNS),
        ({"chosen": ""}, dialogues.NO_TURNS),
        *(
            ({"chosen": text + end}, dialogues.NO_ANSWER)
            for text in (HH, HH + " The Elbe.\n\nHuman: And another?\n\nAssistant:")
            for end in ("", " ", "\n", "\n\n")
        ),
        *(
            ({"chosen": text}, dialogues.NO_ANSWER)
            for text in (
                "\n\nHuman: Hi.",
                "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Bye.",
                "\n\nAssistant: Hello.",
                "\n\nHuman: \n\nAssistant: Hello.",
            )
        ),
        ({"prompt": MORE[:2], "completion": ""}, dialogues.NO_ANSWER),
        *(
            ({"prompt": "Hi.", "completion": completion}, dialogues.NO_ANSWER)
            for completion in ("", " ", [assistant("")], [])
        ),
        *(
            ({"prompt": prompt, **answer}, dialogues.NO_ANSWER)
            for prompt in ("", " \n", [], [user("")])
            for answer in ({}, {"completion": "Hello!"})
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_counted_with_its_reason(row, reason):
    assert parsed(row) == ([], Counter({reason: 1}))


@pytest.mark.parametrize("role", ["Human", "", None, 3])
def test_an_unknown_role_is_refused_with_its_row(role):
    with refused(name="row 2 of here"):
        parsed({"prompt": "Hi."}, {"messages": [{"role": role, "content": "x"}]})


@pytest.mark.parametrize("row", [{}, {"text": "Hi."}, {"rejected": "x"}, {"prompt": None}])
def test_a_row_of_no_known_form_is_refused_with_its_keys(row):
    with refused(name="row 1 of here", got=sorted(row)):
        parsed(row)


@pytest.mark.parametrize("key", ["chosen", "messages", "prompt"])
@pytest.mark.parametrize(
    "value",
    [
        3,
        ["Hi."],
        [{"role": "user"}],
        [{"content": "Hi."}],
        {"role": "user", "content": "Hi."},
        [user(None)],  # as of an assistant that only calls a tool
        [user([{"type": "text", "text": "Hi."}])],
    ],
)
def test_what_is_neither_text_nor_messages_is_refused(key, value):
    with refused(name="row 1 of here", got=value):
        parsed({key: value})


def test_half_a_character_is_replaced_and_said(caplog):
    ((row,), _) = parsed({"prompt": "A \ud83d", "completion": "B \ud83d\ude00"})
    assert row == {"prompt": [user("A \ufffd")], "completion": [assistant("B \U0001f600")]}
    assert objectives.jsonl_bytes([row])
    assert "1 rows of here" in caplog.text


def test_what_is_left_out_is_said_when_all_is_drawn_and_when_too_little_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [SPELLINGS["HH"], SPELLINGS["Alpaca"], {"chosen": "x"}, {"prompt": "A", "completion": "B"}]
    (tmp_path / "helpful.jsonl").write_bytes(objectives.jsonl_bytes([*rows, {"prompt": "C"}]))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prompts.jsonl").write_bytes(objectives.jsonl_bytes([[user("D")]]))
    told = stages.prepare(params_of(tmp_path / "helpful.jsonl", 2), "mine")
    assert told.startswith("drew 2 rows of mine; left out: ")
    for part in (f"1 {dialogues.NO_TURNS}", f"1 {objectives.REPEATED}", f"1 {objectives.UNANSWERED}"):
        assert part in told
    with refused(got=3, remedy=f"1 {dialogues.NO_TURNS}"):
        stages.prepare(params_of(tmp_path / "helpful.jsonl", 3), "mine")


@pytest.mark.parametrize(
    ("of", "name"),
    [
        ({"a": 1e308, "b": 1e308}, "of"),
        ({"a": 0.0}, "of.a"),
        ({"a": -1.0}, "of.a"),
        ({"a": float("inf")}, "of.a"),
        ({}, "of"),
    ],
)
def test_shares_of_a_mix_have_a_finite_sum(of, name):
    with refused(name=name):
        MixedText(of)


class TestFiles:
    ROWS = (
        {"prompt": "Name a river.", "completion": "The Elbe."},
        {"prompt": "Is it 35?", "completion": "NA"},
    )

    def test_a_json_array_is_read_on_one_line_or_several_with_or_without_a_byte_order_mark(self, tmp_path):
        for text in (json.dumps(self.ROWS), "\ufeff" + json.dumps(self.ROWS, indent=2)):
            (tmp_path / "rows.json").write_text(text, encoding="utf-8")
            assert tuple(objectives.read_rows(tmp_path / "rows.json")) == self.ROWS

    def test_an_array_that_is_no_json_is_refused_in_a_few_words(self, tmp_path):
        (tmp_path / "rows.json").write_text(json.dumps([["x" * 10**6]] * 3))
        with pytest.raises(InvalidFile) as caught:
            list(objectives.read_rows(tmp_path / "rows.json"))
        assert len(caught.value.problem) < 300
        assert caught.value.remedy == "write one object a line"

    @pytest.mark.parametrize("kind", ["csv", "parquet", "folder"])
    def test_tables_hold_the_same_rows_as_text_and_leave_nothing_behind(self, tmp_path, kind, monkeypatch):
        import datasets

        rows = datasets.Dataset.from_list(list(self.ROWS))
        path = tmp_path / "in [a] folder" / f"rows.{kind}"
        path.parent.mkdir()
        if kind == "csv":
            with path.open("w", encoding="utf-8-sig", newline="") as file:
                table = csv.DictWriter(file, ["prompt", "completion"])
                table.writeheader()
                table.writerows(self.ROWS)
        elif kind == "parquet":
            rows.to_parquet(path)
        else:
            rows.save_to_disk(path)
        before = sorted(tmp_path.rglob("*"))
        assert tuple(objectives.read_rows(path)) == self.ROWS
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize(
        ("name", "data"),
        [
            ("a.csv", b"a,b\n1,2,3\n"),
            ("a.csv", b"a,a\n1,2\n"),
            ("a.csv", b""),
            ("a.csv", b"a\n\xff\n"),
            ("a.parquet", b"PAR1"),
        ],
    )
    def test_a_broken_table_is_named(self, tmp_path, name, data):
        (tmp_path / name).write_bytes(data)
        with refused(InvalidFile, path=tmp_path / name):
            list(objectives.read_rows(tmp_path / name))

    def test_a_saved_folder_of_several_splits_and_one_of_something_else_are_refused(self, tmp_path):
        import datasets

        rows = datasets.Dataset.from_list(list(self.ROWS))
        datasets.DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "both")
        with refused(InvalidFile, remedy=str(tmp_path / "both" / "train")):
            list(objectives.read_rows(tmp_path / "both"))
        assert len(list(objectives.read_rows(tmp_path / "both" / "train"))) == 2
        (tmp_path / "other").mkdir()
        for path in (tmp_path / "other", tmp_path / "none"):
            with refused(InvalidFile, path=path):
                list(objectives.read_rows(path))
