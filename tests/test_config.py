"""params.yaml: what is read, what is refused, and what the refusal says."""

import copy
import dataclasses
import json
import math
from typing import get_args, get_type_hints

import pytest
import yaml
from support import REPOSITORY, put, refused, small_params

from topoflow import config
from topoflow.config import apply_overrides, load_params, parse_params, read_mapping, yaml_bytes
from topoflow.config.schedule import Schedule
from topoflow.errors import InvalidArgument, InvalidFile, UnknownKey
from topoflow.training.objectives import training_rows

MINIMAL = {
    "models": ["tiny"],
    "objectives": ["helpful"],
    "model": {
        "tiny": {"source": "embedded"},
        "package": {"source": "package", "requirement": "p==1", "sha256": "0" * 64, "file": "m.gguf"},
        "hub": {"source": "hub", "id": "owner/name"},
        "folder": {"source": "folder", "path": "somewhere"},
    },
    "objective": {
        "helpful": {"source": "samples", "name": "helpful"},
        "harmless": {"source": "samples", "name": "harmless"},
        "file": {"source": "file", "path": "rows.jsonl"},
        "hub": {"source": "hub", "id": "owner/rows"},
        "mixed": {"source": "mix", "of": {"helpful": 0.5, "harmless": 0.5}},
    },
    "prompts": {"source": "samples", "name": "prompts"},
}


def with_value(path, value, base=MINIMAL):
    """A copy of `base` with the value at a dotted key path put in."""
    return put(copy.deepcopy(base), path, value)


def params_file(folder, text):
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


class TestReading:
    def test_the_params_of_the_repository_are_read_value_by_value(self):
        path = REPOSITORY / "params.yaml"
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
        params = load_params(path)
        assert params.seed == written["seed"]
        assert list(params.models) == written["models"]
        assert list(params.objectives) == written["objectives"]
        assert set(params.model) == set(written["model"])
        assert set(params.objective) == set(written["objective"])
        assert params.model["smollm2"].sha256 == written["model"]["smollm2"]["sha256"]
        assert params.objective["mixed"] == config.MixedText({"helpful": 0.5, "harmless": 0.5})
        assert params.prompts == config.Prompts(config.SampleText("prompts"), written["prompts"]["n_prompts"])
        for section in ("topology", "compute"):
            read = json.loads(json.dumps(dataclasses.asdict(getattr(params, section))))  # YAML has no tuples
            assert read == written[section], section
        for section in ("prepare", "finetune", "trajectory", "track"):
            found = dataclasses.asdict(getattr(params, section))
            assert {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()} == written[section]
        schedule = written["recording"]["schedule"]
        assert params.recording.schedule == Schedule(**{**schedule, "steps": tuple(schedule["steps"])})
        assert params.recording.layers == written["recording"]["layers"]

    def test_the_params_of_the_repository_name_every_key_there_is(self):
        # what a user can set is to be seen in the file, not only in the source
        written = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
        assert set(written) == {field.name for field in dataclasses.fields(config.Params)}
        for name, section in (
            ("prepare", config.Prepare),
            ("finetune", config.Finetune),
            ("recording", config.Recording),
            ("topology", config.Topology),
            ("trajectory", config.Trajectory),
            ("sensitivity", config.Sensitivity),
            ("track", config.Track),
            ("compute", config.Compute),
        ):
            assert set(written[name]) == {field.name for field in dataclasses.fields(section)}, name

    def test_manifests_say_how_states_are_pooled_where_it_is_not_the_last_token_and_only_there(self):
        assert not {"pooling", "position"} & set(parse_params(MINIMAL).recorded())
        mean = parse_params(with_value("recording", {"pooling": "mean"}))
        assert mean.recorded()["pooling"] == "mean"
        assert "position" not in mean.recorded()
        assert parse_params(with_value("recording", {"position": -2})).recorded()["position"] == -2

    @pytest.mark.parametrize(
        ("recording", "key", "got"),
        [
            ({"pooling": "max"}, "pooling", "max"),
            ({"position": 0}, "position", 0),
            ({"pooling": "mean", "position": -2}, "position", -2),
        ],
    )
    def test_tokens_that_cannot_be_recorded_are_refused(self, recording, key, got):
        with refused(name=f"recording.{key}", got=got):
            parse_params(with_value("recording", recording))

    def test_sections_left_out_have_their_defaults(self):
        params = parse_params(MINIMAL)
        assert params.finetune == config.Finetune()
        assert params.recording == config.Recording()
        assert params.seed == 0

    def test_each_kind_of_source_becomes_its_own_class(self):
        params = parse_params(MINIMAL)
        assert params.model_source("tiny") == config.EmbeddedModel()
        assert params.model_source("package") == config.PackageModel("p==1", "0" * 64, "m.gguf")
        assert params.model_source("hub") == config.HubModel("owner/name", "main", False)
        assert params.model_source("folder") == config.FolderModel("somewhere", False)
        assert params.objective_source("helpful") == config.SampleText("helpful")
        assert params.objective_source("file") == config.FileText("rows.jsonl")
        assert params.objective_source("hub") == config.HubText("owner/rows", "main", None, "train")

    def test_how_a_model_is_opened_is_told_where_it_is_not_the_usual_way_and_only_there(self):
        half = with_value("model.tiny", {"source": "embedded", "dtype": "bfloat16"})
        assert parse_params(half).sources("tiny", "helpful")["model"] == {"name": "tiny", "dtype": "bfloat16"}
        assert parse_params(MINIMAL).sources("tiny", "helpful")["model"] == {"name": "tiny"}

    def test_a_dtype_that_is_left_out_is_not_the_same_as_float32(self):
        told = with_value("model.tiny", {"source": "embedded", "dtype": "float32"})
        assert parse_params(told).sources("tiny", "helpful")["model"] == {"name": "tiny", "dtype": "float32"}
        assert parse_params(MINIMAL).model_source("tiny").dtype is None

    def test_manifests_say_how_many_tokens_are_recorded_at_once_where_that_is_given_and_only_there(self):
        assert "batch_tokens" not in parse_params(MINIMAL).recorded()
        assert parse_params(with_value("recording.batch_tokens", 99)).recorded()["batch_tokens"] == 99

    @pytest.mark.parametrize(("key", "value"), [("quantization", "4bit"), ("dtype", "float16")])
    def test_weights_that_adapters_alone_can_train_are_refused_without_them(self, key, value):
        mapping = with_value("model.tiny", {"source": "embedded", key: value})
        parse_params(mapping)
        with refused(name=f"model.tiny.{key}", expected="finetune.lora is null", got=value):
            parse_params(with_value("finetune.lora", None, mapping))

    def test_a_device_and_a_map_of_devices_are_not_given_together(self):
        source = {"source": "embedded", "device": "cpu", "device_map": "auto"}
        with refused(name="model.tiny.device_map", expected="where there is a device", got="auto"):
            parse_params(with_value("model.tiny", source))

    def test_prompts_may_come_from_any_text_source_with_their_number_beside_it(self):
        source = {"source": "hub", "id": "o/p", "split": "test", "n_prompts": 200}
        prompts = parse_params(with_value("prompts", source)).prompts
        assert prompts == config.Prompts(config.HubText("o/p", split="test"), 200)

    @pytest.mark.parametrize(
        ("path", "value", "read"),
        [
            ("recording.layers", 3, 3),
            ("recording.layers", [0, 3, 5], (0, 3, 5)),
            ("recording.layers", [0], (0,)),
            ("finetune.lora", None, None),
            ("finetune.learning_rate", "1e-3", 0.001),  # how YAML 1.1 reads it
            ("finetune.learning_rate", 1, 1.0),
            ("trajectory.order", 1, 1.0),
            ("trajectory.order", "published", "published"),
        ],
    )
    def test_a_value_may_be_written_in_any_of_its_forms(self, path, value, read):
        section, key = path.split(".")
        found = getattr(getattr(parse_params(with_value(path, value)), section), key)
        assert found == read
        assert type(found) is type(read)

    @pytest.mark.parametrize(
        ("value", "read"), [("q_proj", "q_proj"), (["q_proj", "v_proj"], ("q_proj", "v_proj"))]
    )
    def test_target_modules_are_a_text_or_a_list(self, value, read):
        assert parse_params(with_value("finetune.lora.target_modules", value)).finetune.lora == config.Lora(
            target_modules=read
        )

    def test_no_section_can_be_changed_after_it_was_read(self):
        params = load_params(REPOSITORY / "params.yaml")
        sections = [params, params.finetune, params.finetune.lora, params.recording.schedule, params.prompts]
        sections += [*params.model.values(), *params.objective.values(), params.topology, params.track]
        for section in sections:
            name = dataclasses.fields(section)[0].name
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(section, name, None)


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("path", "label", "nearest"),
        [
            ("finetun", "params.yaml", "finetune"),
            ("model.tiny.nam", "model.tiny", "name"),
            ("model.package.requirements", "model.package", "requirement"),
            ("model.hub.revison", "model.hub", "revision"),
            ("model.folder.pth", "model.folder", "path"),
            ("objective.helpful.nam", "objective.helpful", "name"),
            ("objective.file.paths", "objective.file", "path"),
            ("objective.hub.datadir", "objective.hub", "data_dir"),
            ("objective.mixed.off", "objective.mixed", "of"),
            ("prompts.nprompts", "prompts", "n_prompts"),
            ("prompts.nam", "prompts", "name"),
            ("prepare.rows", "prepare", "n_rows"),
            ("finetune.max_step", "finetune", "max_steps"),
            ("finetune.lora.aplha", "finetune.lora", "alpha"),
            ("recording.layer", "recording", "layers"),
            ("recording.schedule.evry", "recording.schedule", "every"),
            ("topology.subsamples", "topology", "n_subsamples"),
            ("trajectory.ordre", "trajectory", "order"),
            ("track.summary", "track", "summaries"),
            ("compute.njobs", "compute", "n_jobs"),
        ],
    )
    def test_it_is_refused_and_the_nearest_known_key_named(self, path, label, nearest):
        with refused(UnknownKey, section=label, key=path.rpartition(".")[2], nearest=nearest):
            parse_params(with_value(path, 1))

    @pytest.mark.parametrize(
        ("section", "key", "known"),
        [
            ("compute", "zzz", {"address", "backend", "gpu", "n_jobs", "save_steps"}),
            ("prepare", 7, {"held_out", "held_out_of", "n_rows"}),
        ],
    )
    def test_one_that_is_near_to_none_or_no_text_is_answered_with_all_there_are(self, section, key, known):
        with pytest.raises(UnknownKey) as caught:
            parse_params({**MINIMAL, section: {key: 1}})
        error = caught.value
        assert (error.section, error.key, error.nearest, set(error.known)) == (section, key, None, known)


class TestMissingKeys:
    @pytest.mark.parametrize("key", ["models", "objectives", "model", "objective", "prompts"])
    def test_a_section_without_a_default_must_be_there(self, key):
        mapping = {k: v for k, v in MINIMAL.items() if k != key}
        with refused(name=key, expected="given", got=mapping):
            parse_params(mapping)

    def test_a_source_needs_its_keys(self):
        mapping = with_value("model.hub", {"source": "hub", "revision": "main"})
        with refused(name="model.hub.id", expected="given", got={"revision": "main"}):
            parse_params(mapping)


class TestWrongTypes:
    @pytest.mark.parametrize(
        ("path", "value", "expected"),
        [
            ("seed", "one", "a whole number"),
            ("seed", 1.0, "a whole number"),
            ("seed", True, "a whole number"),
            ("seed", None, "a whole number"),
            ("finetune.max_steps", "1e3", "a whole number"),
            ("finetune.learning_rate", True, "a number"),
            ("finetune.learning_rate", "fast", "a number"),
            ("finetune.learning_rate", [0.001], "a number"),
            ("finetune.lora", 8, "a mapping"),
            ("finetune.lora.r", "8", "a whole number"),
            ("finetune.lora.target_modules", 3, "text"),
            ("recording.layers", "all", "a whole number"),
            ("recording.layers", True, "a whole number"),
            ("recording.schedule", 8, "a mapping"),
            ("recording.schedule.steps", 8, "a list"),
            ("recording.schedule.log", "yes", "true or false"),
            ("recording.schedule.log", 1, "true or false"),
            ("models", "tiny", "a list"),
            ("model", ["tiny"], "a mapping"),
            ("model.tiny", "embedded", "a mapping with a key 'source'"),
            ("model.tiny", {}, "a mapping with a key 'source'"),
            ("objective.mixed.of", ["helpful"], "a mapping"),
            ("objective.hub.data_dir", 3, "text"),
            ("prompts", "samples", "a mapping"),
            ("prompts.n_prompts", "many", "a whole number"),
            ("prompts.name", 3, "text"),
            ("track.summaries", "h0_entropy", "a list"),
            ("topology", None, "a mapping"),
        ],
    )
    def test_the_error_names_the_key_what_was_expected_and_what_came(self, path, value, expected):
        with refused(name=path, expected=expected, got=value):
            parse_params(with_value(path, value))

    @pytest.mark.parametrize(
        ("path", "value", "inner", "expected", "got"),
        [
            ("finetune.lora.target_modules", ["q", 3], "[1]", "text", 3),
            ("recording.layers", [0, "5"], "[1]", "a whole number", "5"),
            ("models", [1], "[0]", "text", 1),
            ("objective.mixed.of", {"helpful": "x"}, ".helpful", "a number", "x"),
        ],
    )
    def test_of_a_list_or_mapping_the_error_names_the_item(self, path, value, inner, expected, got):
        with refused(name=path + inner, expected=expected, got=got):
            parse_params(with_value(path, value))

    def test_params_that_are_no_mapping_are_refused(self):
        with refused(name="params.yaml", expected="a mapping", got=[1]):
            parse_params([1])

    def test_a_number_too_large_to_be_one_is_refused(self):
        with refused(name="trajectory.order", expected="a number", got=10**400):
            parse_params(with_value("trajectory.order", 10**400))


class TestRanges:
    def test_voids_need_an_engine_that_computes_them_and_their_summaries_need_voids(self):
        voids = with_value("topology.maxdim", 2)
        assert parse_params(with_value("track.summaries", ["h2_count"], voids)).topology.maxdim == 2
        with refused(name="topology.maxdim", expected="at most 1 for the lune engine", got=2):
            parse_params(with_value("topology.engine", "lune", voids))
        with refused(
            name="track.summaries",
            expected="free of names in h2_ unless topology.maxdim is 2",
            got="h2_count",
        ):
            parse_params(with_value("track.summaries", ["h2_count"]))

    @pytest.mark.parametrize(
        ("path", "least"),
        [
            ("prompts.n_prompts", 2),
            ("prepare.n_rows", 1),
            ("prepare.held_out", 0),
            ("finetune.max_steps", 1),
            ("finetune.per_device_train_batch_size", 1),
            ("finetune.gradient_accumulation_steps", 1),
            ("finetune.max_length", 1),
            ("finetune.n_threads", 1),
            ("finetune.lora.r", 1),
            ("finetune.lora.alpha", 1),
            ("recording.layers", 1),
            ("recording.batch_size", 1),
            ("recording.batch_tokens", 1),
            ("recording.max_length", 1),
            ("recording.schedule.every", 0),
            ("recording.schedule.dense_until", 0),
            ("recording.schedule.dense_every", 1),
            ("topology.n_subsamples", 1),
            ("topology.subsample_size", 2),
        ],
    )
    def test_a_number_below_its_least_is_refused_and_the_least_is_not(self, path, least):
        with refused(name=path, expected=f"at least {least}", got=least - 1):
            parse_params(with_value(path, least - 1))
        # other rules may bind: 2 prompts carry a subsample of 2
        fitting = with_value("topology.subsample_size", 2, with_value("recording.layers", 1))
        section = parse_params(with_value(path, least, fitting))
        for name in path.split("."):
            section = section[name] if isinstance(section, dict) else getattr(section, name)
        assert section == least

    @pytest.mark.parametrize(
        ("path", "expected", "values"),
        [
            ("recording.dtype", "'float16', 'float32' or 'float64'", ["int8"]),
            ("topology.maxdim", "1 or 2", [0, 3]),
            ("trajectory.order", "at least 1", [0.5]),
            ("finetune.learning_rate", "at least 0", [-1e-3]),
            ("finetune.lora.dropout", "at least 0", [-0.1]),
            ("finetune.lora.dropout", "less than 1", [1.0]),
            ("seed", "at least 0", [-1]),
            ("seed", "less than 4294967296", [2**32]),
            ("recording.layers", "at least 1 long", [[]]),
            ("recording.layers", "each once", [[1, 1], [0, 3, 0]]),
            *(
                (path, "a finite number", [math.inf, -math.inf, math.nan])
                for path in ("trajectory.order", "finetune.learning_rate", "finetune.lora.dropout")
            ),
        ],
    )
    def test_a_value_out_of_range_is_refused(self, path, expected, values):
        for value in values:
            with refused(name=path, expected=expected, got=value):
                parse_params(with_value(path, value))

    @pytest.mark.parametrize("path", ["recording.schedule.steps", "recording.layers"])
    def test_steps_and_layers_are_counted_from_0(self, path):
        with refused(name=f"{path}[1]", expected="at least 0", got=-1):
            parse_params(with_value(path, [3, -1]))

    @pytest.mark.parametrize("layers", [6, [0, 6]])
    def test_layers_are_at_most_those_of_an_embedded_model_of_the_study(self, layers):
        mapping = with_value("recording.layers", layers)
        with refused(name="recording.layers", expected="at most 5, the layers of model 'tiny'", got=layers):
            parse_params(mapping)
        assert parse_params({**mapping, "models": ["hub"]})  # the depth of others is not known here

    def test_a_checkpoint_stands_within_the_training(self):
        mapping = with_value("recording.schedule", {"steps": [3, 48]})
        assert parse_params(mapping).recording.schedule.steps == (3, 48)
        with refused(
            name="recording.schedule.steps", expected="at most finetune.max_steps (47)", got=[3, 48]
        ):
            parse_params(with_value("finetune.max_steps", 47, mapping))

    def test_triplets_fit_into_the_training(self):
        mapping = with_value("recording.schedule", {"twins": 13, "triplets": True})
        assert parse_params(with_value("finetune.max_steps", 2, mapping)).recording.schedule.triplets
        with refused(name="recording.schedule.triplets"):
            parse_params(with_value("finetune.max_steps", 1, mapping))

    def test_manifests_from_before_there_were_twins_are_still_of_a_schedule_without(self):
        old = {"every": 8, "dense_until": 8, "dense_every": 1, "steps": (), "log": False}
        assert parse_params(with_value("recording.schedule", old)).recorded()["schedule"] == old
        assert parse_params(MINIMAL).recorded()["schedule"]["twins"] == 13

    def test_a_subsample_has_at_most_as_many_points_as_there_are_prompts(self):
        exact = with_value("prompts.n_prompts", 160)
        assert parse_params(exact).topology.subsample_size == 160
        with refused(name="topology.subsample_size", expected="at most prompts.n_prompts (160)", got=161):
            parse_params(with_value("topology.subsample_size", 161, exact))


class TestNames:
    @pytest.mark.parametrize(
        ("path", "kinds"),
        [
            ("model.tiny", "embedded, folder, gguf, hub, package"),
            (
                "objective.helpful",
                "checkpoints, file, hub, mix, rerun, revisions, samples, shuffled, variant",
            ),
            ("prompts", "file, hub, mix, samples"),
        ],
    )
    @pytest.mark.parametrize("source", ["zip", None, 3, ["hub"]])
    def test_an_unknown_source_is_answered_with_the_known_ones(self, path, kinds, source):
        with refused(name=f"{path}.source", expected=f"one of {kinds}", got=source):
            parse_params(with_value(f"{path}.source", source))

    @pytest.mark.parametrize("name", ["a.b", "a/b", "../a", "", "-a", "a b", "é", "a" * 65, "a\n"])
    @pytest.mark.parametrize("kind", ["model", "objective"])
    def test_a_name_that_could_not_be_a_folder_and_a_stage_is_refused(self, kind, name):
        mapping = copy.deepcopy(MINIMAL)
        mapping[kind][name] = next(iter(mapping[kind].values()))
        with refused(
            name=f"{kind}.{name!r}".replace("'", ""), expected="a name of letters, digits, _ and -", got=name
        ):
            parse_params(mapping)

    @pytest.mark.parametrize("name", ["a", "A-b_9", "7b", "a" * 64])
    def test_other_names_are_taken(self, name):
        mapping = copy.deepcopy(MINIMAL)
        mapping["objective"][name] = {"source": "samples", "name": "helpful"}
        mapping["objectives"] = [name]
        assert parse_params(mapping).objective_source(name) == config.SampleText("helpful")

    @pytest.mark.parametrize(
        ("path", "value", "name", "expected", "got"),
        [
            ("models", ["tiny", "huge"], "model", "one of folder, hub, package, tiny", "huge"),
            ("objectives", ["mean"], "objective", "one of file, harmless, helpful, hub, mixed", "mean"),
            ("models", [], "models", "at least 1 long", []),
            ("models", ["tiny", "tiny"], "models", "each once", ["tiny", "tiny"]),
            ("objectives", [], "objectives", "at least 1 long", []),
            ("objectives", ["helpful"] * 2, "objectives", "each once", ["helpful"] * 2),
        ],
    )
    def test_the_study_lists_some_that_there_are_and_none_twice(self, path, value, name, expected, got):
        with refused(name=name, expected=expected, got=got):
            parse_params(with_value(path, value))

    @pytest.mark.parametrize("path", ["objective.helpful.name", "prompts.name"])
    def test_samples_are_those_that_come_with_topoflow(self, path):
        with refused(name=path, expected="one of everyday, harmless, helpful, prompts", got="honest"):
            parse_params(with_value(path, "honest"))

    def test_the_bundled_prompts_are_no_objective_since_they_have_no_answers(self):
        mapping = with_value("objective.helpful.name", "prompts")
        with refused(name="objective.helpful", expected="text with answers to train on", got="prompts"):
            parse_params(mapping)

    @pytest.mark.parametrize("kind", ["model", "objective"])
    def test_prompts_is_no_name_since_a_file_of_every_study_has_it(self, kind):
        mapping = with_value(f"{kind}.prompts", next(iter(MINIMAL[kind].values())))
        with refused(name=f"{kind}.prompts", expected="another name", got="prompts"):
            parse_params(mapping)

    def test_learning_rates_follow_any_schedule_of_transformers_that_needs_nothing_else(self):
        import torch
        from transformers import SchedulerType, TrainingArguments, get_scheduler

        from topoflow.training.sft import learning_rates

        def needs_nothing_else(name):
            optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
            try:
                TrainingArguments(lr_scheduler_type=name)
                return bool(get_scheduler(name, optimiser, num_warmup_steps=0, num_training_steps=9))
            except (ValueError, TypeError):
                return False

        names = [kind.value for kind in SchedulerType if needs_nothing_else(kind.value)]
        assert set(names) == set(get_args(get_type_hints(config.Finetune)["lr_scheduler_type"]))
        for name in names:  # and the rates of all are known beforehand
            assert len(learning_rates(config.Finetune(max_steps=9, lr_scheduler_type=name))) == 9
        further = {"lr_scheduler_kwargs": {"num_cycle": 2}}
        with refused(name="finetune.sft_config.lr_scheduler_kwargs"):
            learning_rates(config.Finetune(sft_config=further))
        with refused(name="finetune.lr_scheduler_type", expected="'linear', 'cosine'", got="cosinus"):
            parse_params(with_value("finetune.lr_scheduler_type", "cosinus"))

    def test_asking_for_an_unknown_model_or_objective_lists_the_known_ones(self):
        params = parse_params(MINIMAL)
        for name, asked, got in (
            ("model", params.model_source, "helpful"),
            ("objective", params.objective_source, "tiny"),
        ):
            with refused(name=name, got=got) as caught:
                asked(got)
            assert caught.value.expected == f"one of {', '.join(sorted(MINIMAL[name]))}"

    def test_a_mix_is_made_of_known_plain_objectives(self):
        for name, shares, wrong in (
            ("more", {"helpful": 1, "mixed": 1}, "mixed"),
            ("mixed", {"mixed": 1.0}, "mixed"),
            ("mixed", {"helpfull": 1.0}, "helpfull"),
        ):
            with refused(name=f"objective.{name}.of", got=wrong):
                parse_params(with_value(f"objective.{name}", {"source": "mix", "of": shares}))


WITH_CONTROLS = copy.deepcopy(MINIMAL)
WITH_CONTROLS["objectives"] = ["harmless", "mixed", "shuffled_mixed"]
WITH_CONTROLS["objective"] |= {
    "finished": {"source": "checkpoints", "path": "outputs"},
    "shuffled_mixed": {"source": "shuffled", "of": "mixed"},
    "shuffled": {"source": "shuffled", "of": "harmless"},
    "constant": {
        "source": "variant",
        "of": "harmless",
        "finetune": {"lr_scheduler_type": "constant", "lora": {"r": 4}},
    },
    "still": {"source": "variant", "of": "shuffled", "finetune": {"learning_rate": 0}},
    "again": {"source": "rerun", "of": "mixed"},
}


class TestControls:
    def test_a_shuffled_objective_is_the_control_of_its_own_and_a_variant_is_of_none(self):
        params = parse_params(WITH_CONTROLS)
        found = {name: config.control_of(params, name) for name in params.objective}
        assert {name: control for name, control in found.items() if control} == {
            "harmless": "shuffled",
            "mixed": "shuffled_mixed",
        }
        assert params.controls() == {"mixed": "shuffled_mixed"}  # the other is not of the study
        assert [name for name in params.objective if params.is_control(name)] == [
            "shuffled_mixed",
            "shuffled",
            "constant",
            "still",
            "again",
        ]

    def test_a_rerun_has_the_rows_and_the_training_of_its_objective(self):
        params = parse_params(WITH_CONTROLS)
        assert params.finetune_of("again") == params.finetune
        assert params.made_of("again") == ["again", "mixed", "helpful", "harmless"]
        assert params.held_out("again") == params.held_out("mixed")
        prompts: list[list[dict[str, str]]] = []
        assert training_rows(params, "again", prompts) == training_rows(params, "mixed", prompts)

    def test_of_two_controls_that_of_the_study_is_the_control(self):
        mapping = copy.deepcopy(WITH_CONTROLS)
        mapping["objective"]["other"] = {"source": "shuffled", "of": "harmless"}
        assert config.control_of(parse_params(mapping), "harmless") == "shuffled"
        mapping["objectives"] = ["harmless", "other"]
        assert parse_params(mapping).controls() == {"harmless": "other"}

    def test_a_variant_is_trained_as_the_section_says_but_for_what_it_names(self):
        params = parse_params(with_value("finetune", {"max_steps": 7, "lora": {"alpha": 5}}, WITH_CONTROLS))
        constant = params.finetune_of("constant")
        lora = dataclasses.replace(params.finetune.lora, r=4)
        assert constant == dataclasses.replace(params.finetune, lr_scheduler_type="constant", lora=lora)
        assert params.training("constant") == {
            key: value for key, value in dataclasses.asdict(constant).items() if key != "sft_config"
        }
        assert params.finetune_of("still").learning_rate == 0
        assert all(
            params.finetune_of(name) == params.finetune for name in ("harmless", "shuffled", "finished")
        )

    def test_a_manifest_says_what_a_control_is_made_of(self):
        params = parse_params(WITH_CONTROLS)
        assert params.made_of("still") == ["still", "shuffled", "harmless"]
        assert params.made_of("shuffled_mixed") == ["shuffled_mixed", "mixed", "helpful", "harmless"]
        text = params.sources("tiny", "still")["text"]
        assert text["still"] == {"of": "shuffled", "finetune": {"learning_rate": 0}}
        assert text["shuffled"] == {"of": "harmless"}
        assert text["harmless"] == {"name": "harmless"}

    @pytest.mark.parametrize(
        ("source", "of"),
        [
            *(("shuffled", name) for name in ("nobody", "finished", "shuffled", "constant", "it")),
            *(("variant", name) for name in ("nobody", "finished", "constant", "again", "it")),
            *(("rerun", name) for name in ("nobody", "finished", "constant", "again", "it")),
        ],
    )
    def test_a_control_is_made_of_an_objective_with_rows(self, source, of):
        entry = {"source": source, "of": of}
        if source == "variant":
            entry["finetune"] = {"learning_rate": 0}
        with refused(name="objective.it.of", got=of):
            parse_params(with_value("objective.it", entry, WITH_CONTROLS))

    @pytest.mark.parametrize(
        ("change", "key"),
        [
            ({}, "finetune"),
            ({"learning_rate": -1}, "finetune.learning_rate"),
            ({"lr_scheduler_type": "cosinus"}, "finetune.lr_scheduler_type"),
            ({"sft_config": "more.yaml"}, "finetune.sft_config"),
        ],
    )
    def test_a_variant_is_checked_as_the_section_is(self, change, key):
        with refused(name=f"objective.constant.{key}"):
            parse_params(with_value("objective.constant.finetune", change, WITH_CONTROLS))

    def test_an_unknown_key_of_a_variant_is_refused_with_the_nearest(self):
        with refused(UnknownKey, section="objective.constant.finetune", nearest="learning_rate"):
            parse_params(with_value("objective.constant.finetune", {"learning_rat": 0}, WITH_CONTROLS))

    def test_a_schedule_of_steps_fits_into_each_training_of_the_study(self):
        mapping = with_value("objective.constant.finetune", {"max_steps": 3}, WITH_CONTROLS)
        mapping["recording"] = {"schedule": {"steps": [4]}}
        parse_params(mapping)  # not of the study
        mapping["objectives"] = ["constant"]
        with refused(name="recording.schedule.steps", expected="objective.constant.finetune.max_steps (3)"):
            parse_params(mapping)


class TestOverrides:
    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            ("seed=2", {"seed": 2, "finetune": {"max_steps": 48, "lora": {"r": 16, "alpha": 32}}}),
            ("finetune.max_steps=40", {"finetune": {"max_steps": 40, "lora": {"r": 16, "alpha": 32}}}),
            ("finetune.lora.r=4", {"finetune": {"max_steps": 48, "lora": {"r": 4, "alpha": 32}}}),
            ("finetune.lora=null", {"finetune": {"max_steps": 48, "lora": None}}),
            (
                "recording.schedule.every=2",
                {
                    "finetune": {"max_steps": 48, "lora": {"r": 16, "alpha": 32}},
                    "recording": {"schedule": {"every": 2}},
                },
            ),
        ],
    )
    def test_one_value_changes_and_all_others_stay(self, override, expected):
        mapping = {"finetune": {"max_steps": 48, "lora": {"r": 16, "alpha": 32}}}
        assert apply_overrides(mapping, [override]) == expected

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("[0, 5]", [0, 5]),
            ("{a: 1}", {"a": 1}),
            ("true", True),
            ("0.5", 0.5),
            ("1e-3", 0.001),
            ("", None),
            ("a=b", "a=b"),
            ('"3"', "3"),
        ],
    )
    def test_values_are_read_as_yaml(self, text, value):
        assert apply_overrides({}, [f"key={text}"]) == {"key": value}

    def test_a_later_override_goes_over_an_earlier_one(self):
        assert apply_overrides({}, ["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": 3, "c": 2}}

    def test_the_mapping_given_is_left_as_it_was_however_deep_the_change(self):
        mapping = {"a": {"b": {"c": {"d": 1}}}, "list": [1, 2]}
        before = copy.deepcopy(mapping)
        changed = apply_overrides(mapping, ["a.b.c.d=2", "a.b.c.e=3", "a.f=4", "list=[3]", "g.h=5"])
        assert changed == {"a": {"b": {"c": {"d": 2, "e": 3}}, "f": 4}, "list": [3], "g": {"h": 5}}
        assert mapping == before

    @pytest.mark.parametrize(
        ("override", "name", "got"),
        [
            *(
                (override, "set", override)
                for override in ["foo", "=3", "a..b=1", ".a=1", "a.=1", "", "  =1"]
            ),
            ("recording.layers=[1, 2", "set: the value of recording.layers", "[1, 2"),
        ],
    )
    def test_what_is_no_assignment_or_no_yaml_is_refused(self, override, name, got):
        with refused(name=name, got=got):
            apply_overrides({}, [override])

    def test_they_are_checked_like_what_the_file_says(self, tmp_path):
        path = params_file(tmp_path, yaml.safe_dump(MINIMAL))
        params = load_params(path, ["finetune.learning_rate=1e-3", "recording.layers=[0, 5]", "seed=7"])
        assert params.finetune.learning_rate == 0.001
        assert isinstance(params.finetune.learning_rate, float)
        assert params.recording.layers == (0, 5)
        assert params.seed == 7
        with refused(UnknownKey, section="finetune", key="max_step"):
            load_params(path, ["finetune.max_step=3"])
        with refused(name="seed", got={"x": 1}):
            load_params(path, ["seed.x=1"])


class TestFiles:
    def test_a_missing_file_is_named(self, tmp_path):
        path = tmp_path / "params.yaml"
        with refused(InvalidFile, path=path, problem="must exist in the folder of the study"):
            load_params(path)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("- a\n", "must hold a mapping, got list"),
            ("just text\n", "must hold a mapping, got str"),
            ("", "must hold a mapping, got NoneType"),
            ("3\n", "must hold a mapping, got int"),
            *(
                (t, "must be YAML: ")
                for t in ("a: [1\n", "a: b: c\n", "a: !!python/object/apply:os.getcwd []\n")
            ),
        ],
    )
    def test_what_is_no_mapping_or_no_plain_yaml_is_refused(self, tmp_path, text, problem):
        path = params_file(tmp_path, text)
        with refused(InvalidFile, path=path) as caught:
            load_params(path)
        assert caught.value.problem.startswith(problem)


def test_the_runs_of_a_study_are_every_model_with_every_objective_and_seed():
    params = parse_params({**read_mapping(REPOSITORY / "params.yaml"), "seeds": [4, 2]})
    assert [str(run) for run in params.runs()] == [
        f"tiny-{objective}{control}-{seed}"
        for control in ("", "_shuffled")
        for objective in ("helpful", "harmless", "mixed")
        for seed in (4, 2)
    ]


@pytest.mark.parametrize(
    ("seeds", "name", "got"),
    [([], "seeds", []), ([1, 1], "seeds", [1, 1]), ([-1], "seeds[0]", -1), ([1, 2**32], "seeds[1]", 2**32)],
)
def test_seeds_must_be_different_numbers_that_a_generator_takes(seeds, name, got):
    with refused(name=name, got=got):
        parse_params({**MINIMAL, "seeds": seeds})


class TestSftConfig:
    def test_it_is_a_mapping_or_a_file_with_one(self, tmp_path):
        (tmp_path / "trl.yaml").write_text("weight_decay: 0.1\nbf16: true\n")
        for given in ({"weight_decay": 0.1, "bf16": True}, str(tmp_path / "trl.yaml")):
            params = parse_params(with_value("finetune", {"sft_config": given}))
            assert params.finetune.sft_config == {"weight_decay": 0.1, "bf16": True}
            assert params.training("helpful")["sft_config"] == params.finetune.sft_config

    def test_without_one_manifests_are_as_they_were(self):
        assert "sft_config" not in parse_params(MINIMAL).training("helpful")

    @pytest.mark.parametrize(
        ("key", "reason"),
        [
            ("learning_rate", "say finetune.learning_rate"),
            ("seed", "it is the run's"),
            ("save_steps", "compute.save_steps says what is kept"),
            ("model_name_or_path", "say it of the model"),
            ("lora_r", "say it under finetune.lora"),
        ],
    )
    def test_what_topoflow_sets_is_refused_with_the_reason(self, key, reason):
        with refused(name=f"finetune.sft_config.{key}", remedy=reason):
            parse_params(with_value("finetune", {"sft_config": {key: 1}}))


@pytest.mark.parametrize("name", ["x" * 5000, "."])
def test_a_file_that_cannot_be_read_is_refused_and_its_name_cut(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidFile) as caught:
        read_mapping(name)
    assert len(str(caught.value)) < 300


def _whole_numbers(mapping, path=()):
    for key, value in mapping.items():
        if isinstance(value, dict):
            yield from _whole_numbers(value, (*path, key))
        elif isinstance(value, int) and not isinstance(value, bool):
            yield (*path, key)


def test_a_number_that_nothing_could_hold_is_refused_before_anything_is_computed():
    whole = small_params()
    harmless = {
        ("recording", "schedule", "every"),
        ("recording", "schedule", "dense_until"),
        ("trajectory", "order"),
    }
    found = set(_whole_numbers(whole)) - harmless
    assert len(found) > 20
    for path in found:
        with pytest.raises(InvalidArgument) as caught:
            parse_params(with_value(path, 10**15, whole))
        assert path[-1] in caught.value.name


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("[010]", [10]),
        ("[1:30]", ["1:30"]),
        ("[no]", ["no"]),
        ("{weight_decay: 1e-3}", {"weight_decay": 0.001}),
        (".inf", float("inf")),
        ("0o17", 15),
        ("on", "on"),
    ],
)
def test_yaml_means_to_topoflow_what_it_means_to_dvc(tmp_path, text, meant):
    from dvc.utils.serialize import parse_yaml

    path = tmp_path / "params.yaml"
    path.write_text(f"key: {text}\n")
    assert read_mapping(path) == {"key": meant} == parse_yaml(path.read_text(), path)
    assert apply_overrides({}, [f"key={text}"]) == {"key": meant}


@pytest.mark.parametrize(
    "text", ["seed: 1\nseed: 2\n", "a: {b: 1, b: 2}", "<<<<<<< ours\nseed: 1\n", "\x00\x01", "a: [" * 9000]
)
def test_yaml_that_dvc_refuses_is_refused_in_one_line_that_names_the_file(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with refused(InvalidFile, path=path) as caught:
        read_mapping(path)
    assert len(str(caught.value).replace(str(path), "")) < 300


def test_an_override_that_is_no_yaml_is_refused_in_few_words():
    with pytest.raises(InvalidArgument) as caught:
        apply_overrides({}, ["seed=" + "[" * 100_000])
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "value",
    ["0o17", "1.e3", "1e-3", "010", "1:30", "no", "null", "~", "0x1F", ".inf", "1_000", "2001-01-01", "<<", "", "a: b",
     "line\nbreak", "é", True, None, 1e-05, 3, [1, "0o2"], {"x": "0o1"}],
)  # fmt: skip
def test_a_mapping_that_is_written_for_a_run_aside_reads_back_as_it_was(tmp_path, value):
    (tmp_path / "params.yaml").write_bytes(yaml_bytes({"b": value, "a": 1}))
    read = read_mapping(tmp_path / "params.yaml")
    assert read == {"b": value, "a": 1}
    assert type(read["b"]) is type(value)
    assert list(read) == ["b", "a"]
