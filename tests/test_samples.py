"""The bundled sample rows: enough of them, distinct, well formed, and refused when malformed."""

import re
from collections import Counter
from importlib import resources
from typing import Any

import pytest
import yaml
from support import refused

from topoflow.samples import expand_families, load_samples

TRAINING = ("helpful", "harmless")
EVERY = (*TRAINING, "prompts")  # of objectives, and what they are held against
ALL = (*EVERY, "everyday")
SLOT = re.compile(r"\{\w+\}")


def parsed_families(name: str) -> list[dict[str, Any]]:
    text = (resources.files("topoflow") / "samples" / f"{name}.yaml").read_text(encoding="utf-8")
    families: list[dict[str, Any]] = yaml.safe_load(text)
    return families


def folded(text: str) -> str:
    return " ".join(text.casefold().split())


def prompts_of(name: str) -> list[str]:
    return [row["prompt"] for row in load_samples(name)]


def tea_family(**changes: Any) -> dict[str, Any]:
    family: dict[str, Any] = {
        "name": "tea",
        "prompts": ["A cup of {tea}?", "Do you like {tea}?"],
        "completions": ["Let {tea} steep.", "Yes, {tea} is fine.", "No {tea} for me."],
        "items": [{"tea": "mint tea"}, {"tea": "black tea"}],
    }
    return {**family, **changes}


@pytest.mark.parametrize(
    ("name", "rows", "families"),
    [("helpful", 700, 25), ("harmless", 700, 25), ("prompts", 1000, 40), ("everyday", 4000, 40)],
)
def test_each_set_has_enough_rows_from_enough_families(name: str, rows: int, families: int) -> None:
    assert len(load_samples(name)) >= rows
    assert len({family["name"] for family in parsed_families(name)}) >= families


@pytest.mark.parametrize("name", ALL)
def test_no_two_prompts_of_a_set_are_alike_after_folding(name: str) -> None:
    repeated = [prompt for prompt, n in Counter(map(folded, prompts_of(name))).items() if n > 1]
    assert repeated == []


def test_the_two_training_sets_share_no_prompt() -> None:
    assert set(map(folded, prompts_of("helpful"))).isdisjoint(map(folded, prompts_of("harmless")))


@pytest.mark.parametrize("name", EVERY)
def test_what_the_embedded_model_is_pretrained_on_shares_no_prompt_with_other_sets(name: str) -> None:
    assert set(map(folded, prompts_of("everyday"))).isdisjoint(map(folded, prompts_of(name)))


@pytest.mark.parametrize("name", TRAINING)
def test_no_evaluation_prompt_occurs_in_training(name: str) -> None:
    assert set(map(folded, prompts_of("prompts"))).isdisjoint(map(folded, prompts_of(name)))


def test_no_evaluation_template_is_a_training_template_with_other_slots() -> None:
    def blanked(name: str) -> set[str]:
        templates = [t for family in parsed_families(name) for t in family["prompts"]]
        shapes = {folded(SLOT.sub("_", template)) for template in templates}
        # A template of little but slots, such as "{remark}", says nothing about its family.
        return {shape for shape in shapes if len(re.findall(r"[a-z]+", shape)) >= 2}

    assert blanked("prompts")
    assert blanked("prompts").isdisjoint(blanked("helpful") | blanked("harmless"))


@pytest.mark.parametrize("name", ALL)
def test_texts_have_no_braces_no_double_spaces_and_no_loose_ends(name: str) -> None:
    texts = [text for row in load_samples(name) for text in row.values()]
    assert [text for text in texts if re.search(r"[{}]|\s\s|\n|^\s|\s$| [,.?!;]", text)] == []


@pytest.mark.parametrize("name", ALL)
def test_every_text_ends_with_punctuation_and_starts_with_no_small_letter(name: str) -> None:
    texts = [text for row in load_samples(name) for text in row.values()]
    assert [text for text in texts if not re.search(r"[.?!][\"']?$", text)] == []
    assert [text for text in texts if text[0].islower()] == []


@pytest.mark.parametrize("name", ALL)
def test_an_article_fits_the_sound_of_the_word_after_it(name: str) -> None:
    # Spelling is a good guide except for these words, whose first sound and first letter differ.
    vowel_sound, consonant_sound = r"(?:hour|honest|heir|honou?r)", r"(?:uni|use|usu|eu|one\b|once)"
    wrong = re.compile(
        rf"\ba (?!{consonant_sound})[aeiou]|\ban (?!{vowel_sound})[bcdfghjklmnpqrstvwxyz]|\ba {vowel_sound}",
        re.IGNORECASE,
    )
    texts = [text for row in load_samples(name) for text in row.values()]
    assert [text for text in texts if wrong.search(text)] == []


@pytest.mark.parametrize("name", TRAINING)
def test_answers_are_concise_but_not_bare(name: str) -> None:
    lengths = [len(row["completion"]) for row in load_samples(name)]
    assert min(lengths) >= 110
    assert max(lengths) <= 350


@pytest.mark.parametrize("name", EVERY)
def test_prompts_run_from_a_few_words_to_a_few_sentences(name: str) -> None:
    lengths = [len(prompt.encode()) for prompt in prompts_of(name)]
    assert min(lengths) >= 10
    assert max(lengths) <= 220
    assert 60 <= sum(lengths) / len(lengths) <= 110


def test_evaluation_prompts_include_very_short_and_long_ones() -> None:
    words = [len(prompt.split()) for prompt in prompts_of("prompts")]
    assert min(words) <= 3
    assert max(words) >= 25


@pytest.mark.parametrize("name", EVERY)
def test_no_family_makes_up_more_than_six_per_cent_of_a_set(name: str) -> None:
    sizes = [len(family["prompts"]) * len(family["items"]) for family in parsed_families(name)]
    assert max(sizes) <= 0.06 * sum(sizes)


@pytest.mark.parametrize("name", TRAINING)
def test_no_answer_is_given_more_than_twice(name: str) -> None:
    assert max(Counter(row["completion"] for row in load_samples(name)).values()) <= 2


@pytest.mark.parametrize("name", EVERY)
def test_every_slot_value_of_an_item_is_used_by_its_family(name: str) -> None:
    for family in parsed_families(name):
        used = set(SLOT.findall(" ".join([*family["prompts"], *family.get("completions", [])])))
        for item in family["items"]:
            assert {f"{{{slot}}}" for slot in item} == used, family["name"]


@pytest.mark.parametrize("name", EVERY)
def test_loading_twice_gives_equal_rows_that_can_be_changed_apart(name: str) -> None:
    first, second = load_samples(name), load_samples(name)
    assert first == second
    first[0]["prompt"] = "changed"
    assert "changed" not in (second[0]["prompt"], load_samples(name)[0]["prompt"])


def test_evaluation_rows_carry_no_completion_and_training_rows_do() -> None:
    assert {tuple(row) for row in load_samples("prompts")} == {("prompt",)}
    assert {tuple(row) for name in TRAINING for row in load_samples(name)} == {("prompt", "completion")}


def test_rows_go_prompt_by_prompt_and_completions_rotate_with_prompt_and_item() -> None:
    assert expand_families([tea_family()]) == [
        {"prompt": "A cup of mint tea?", "completion": "Let mint tea steep."},
        {"prompt": "A cup of black tea?", "completion": "Yes, black tea is fine."},
        {"prompt": "Do you like mint tea?", "completion": "Yes, mint tea is fine."},
        {"prompt": "Do you like black tea?", "completion": "No black tea for me."},
    ]


@pytest.mark.parametrize("name", ["helpfull", "", "Helpful", "../secrets"])
def test_an_unknown_set_is_refused_by_name(name: str) -> None:
    with refused(name="name", expected="one of helpful, harmless, prompts, everyday", got=name):
        load_samples(name)


@pytest.mark.parametrize(
    ("family", "name", "expected", "got"),
    [
        (tea_family(prompts=["A {pot} of {tea}?"]), " (tea): {pot}", "text", None),
        (tea_family(items=[{"tea": 35}]), " (tea): {tea}", "text", 35),
        (tea_family(prompts=["A cup of {tea?"]), " (tea)", "of paired braces", "A cup of {tea?"),
        (tea_family(prompts=[]), " (tea): prompts", "a non-empty list of str", []),
        (tea_family(completions=[]), " (tea): completions", "a non-empty list of str", []),
        (tea_family(items=[]), " (tea): items", "a non-empty list of dict", []),
        (tea_family(items=["mint tea"]), " (tea): items", "a non-empty list of dict", ["mint tea"]),
        (tea_family(prompts="A cup?"), " (tea): prompts", "a non-empty list of str", "A cup?"),
        (tea_family(promts=[""]), "", "of the keys", ["completions", "items", "name", "prompts", "promts"]),
        ({"name": "tea", "prompts": ["Tea?"]}, "", "'completions'", ["name", "prompts"]),
        ("tea", "", "of the keys", "tea"),
    ],
)
def test_a_malformed_family_is_refused_with_its_place_and_what_was_expected(
    family: Any, name: str, expected: str, got: Any
) -> None:
    with refused(name=f"families[0]{name}", expected=expected, got=got):
        expand_families([family])


def test_completions_are_refused_where_only_prompts_belong() -> None:
    with refused(name="families[0]", expected="of the keys ['items', 'name', 'prompts']"):
        expand_families([tea_family()], answered=False)


@pytest.mark.parametrize("families", [None, [], {"name": "tea"}])
def test_a_file_without_a_list_of_families_is_refused(families: Any) -> None:
    with refused(name="families", expected="a non-empty list of families"):
        expand_families(families)
