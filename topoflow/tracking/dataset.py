"""Activation sets as MLflow datasets: `mlflow.data.from_activations(...)`, and the way back from a run to the bytes.

A set is named by its folder, or inside a DVC repository by

    dvc+<repository>[?rev=<revision>]#<path>

where the repository is a folder or anything that git clones, and the path is that of the set in it; for example
`dvc+https://github.com/me/study?rev=v1#activations/tiny/helpful/seed_0`.
"""

# No `from __future__ import annotations`: MLflow wants the class that `from_activations` returns, not its name.

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from mlflow.data.dataset import Dataset
from mlflow.data.dataset_source import DatasetSource

from topoflow import storage
from topoflow.errors import InvalidArgument, InvalidFile, quoted, said
from topoflow.names import layer_name
from topoflow.storage.files import read_bytes, read_text
from topoflow.tracking.store import lasting, without_password

_SCHEME = "dvc+"


@dataclass(frozen=True)
class ActivationsSource(DatasetSource):
    """Where an activation set is, and how to tell that it is that set.

    Attributes
    ----------
    uri : str
        A folder, or a URL as the module describes.
    sha256 : str
        The SHA-256 of the set's manifest, which names the SHA-256 of every file.
    dvc_md5 : str, optional
        The hash of the folder in DVC: its cache and remotes find the set by it when the folder holds another one.
    """

    uri: str
    sha256: str
    dvc_md5: str | None = None

    @staticmethod
    def _get_source_type() -> str:
        return "topoflow_activations"

    def load(self, dst_path: str | Path | None = None) -> storage.StoredSet:
        """The set, every byte of it verified; where it is not here, it comes from DVC's cache or remote.

        Parameters
        ----------
        dst_path : path, optional
            A new or empty folder for files that DVC brings, by default a temporary one, which stays.

        Raises
        ------
        InvalidArgument, InvalidFile
            When the set cannot be found, is damaged, or is another than the one that was logged.
        """
        if self.uri.startswith(_SCHEME):
            return self._verified(_get(self.uri, _empty(dst_path)))
        folder = Path(self.uri)
        manifest = folder / storage.MANIFEST
        if self.dvc_md5 and not (manifest.is_file() and storage.sha256_of_file(manifest) == self.sha256):
            folder = _restore(folder, self.dvc_md5, _empty(dst_path))
        return self._verified(folder)

    def _verified(self, folder: Path) -> storage.StoredSet:
        stored = storage.open_set(folder, storage.ACTIVATIONS)
        if stored.sha256 != self.sha256:
            logged, now = self.sha256[:12], stored.sha256[:12]
            problem = f"must hold the activation set {logged} that was logged, and it now holds {now}"
            raise InvalidFile(self.uri, problem)
        return stored

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        """Whether `raw_source` is an activation set; MLflow asks this of every source of any dataset."""
        if not isinstance(raw_source, str | Path):
            return False
        if str(raw_source).startswith(_SCHEME):
            return True
        try:
            manifest = json.loads(read_bytes(Path(raw_source) / storage.MANIFEST))
        except (OSError, ValueError):
            return False
        return isinstance(manifest, dict) and manifest.get("format") == storage.ACTIVATIONS

    @classmethod
    def _resolve(cls, raw_source: Any) -> Self:
        source = from_activations(raw_source).source
        return cls(source.uri, source.sha256, source.dvc_md5)

    def to_dict(self) -> dict[str, Any]:
        return {"uri": self.uri, "sha256": self.sha256, "dvc_md5": self.dvc_md5}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> Self:
        return cls(source_dict["uri"], source_dict["sha256"], source_dict.get("dvc_md5"))


class ActivationsDataset(Dataset):
    """An activation set as a dataset of a run: what it holds, how large it is, and its hashes."""

    def __init__(
        self,
        manifest: Mapping[str, Any],
        source: ActivationsSource,
        name: str | None = None,
        digest: str | None = None,
    ) -> None:
        self._manifest = manifest
        name = name or "activations {model}-{objective}-{seed}".format_map(manifest)
        super().__init__(source, name, digest)

    @property
    def source(self) -> ActivationsSource:
        return self._source  # type: ignore[return-value]

    def _compute_digest(self) -> str:
        return self.source.sha256[:32]  # MLflow takes 36 characters

    @property
    def profile(self) -> dict[str, Any]:
        """Layers, steps, number of prompts, hidden size, dtype and hashes."""
        manifest = self._manifest
        kept = (
            "n_prompts",
            "hidden_size",
            "layers",
            "steps",
            "dtype",
            "seed",
            "weights_sha256",
            "prompts_sha256",
        )
        found = {key: manifest[key] for key in kept if key in manifest}
        found |= {"n_files": len(manifest["files"]), "manifest_sha256": self.source.sha256}
        found |= {"source": self.source.uri}  # MLflow's drawer shows a source only of the kinds that it knows
        return found | ({"dvc_md5": self.source.dvc_md5} if self.source.dvc_md5 else {})

    @property
    def schema(self) -> Any:
        """A column a layer: of a tensor, MLflow's drawer would not show the source."""
        from mlflow.types.schema import ColSpec, DataType, Schema

        kind = DataType.double if self._manifest["dtype"] == "float64" else DataType.float
        return Schema([ColSpec(kind, layer_name(layer)) for layer in self._manifest["layers"]])

    def to_dict(self) -> dict[str, str]:
        return {
            **super().to_dict(),
            "schema": json.dumps({"mlflow_colspec": self.schema.to_dict()}),
            "profile": json.dumps(self.profile),
        }

    def load(self) -> storage.StoredSet:
        """As `ActivationsSource.load`."""
        return self.source.load()


def from_activations(
    source: str | Path, name: str | None = None, digest: str | None = None
) -> ActivationsDataset:
    """An activation set as an MLflow dataset, for `mlflow.log_input`.

    MLflow has this function as `mlflow.data.from_activations`.

    Parameters
    ----------
    source : path or str
        The folder of a set, or a DVC URL (`dvc+<repository>?rev=<revision>#<path>`), of which only the manifest is
        read here.
    name : str, optional
        By default `activations` and the run, as in `activations tiny-helpful-0`.
    digest : str, optional
        By default the first 32 digits of the manifest's SHA-256.

    Raises
    ------
    InvalidArgument, InvalidFile
        When there is no activation set, or its files do not match its manifest.
    """
    if not str(source).startswith(_SCHEME):
        return dataset_of(storage.open_set(source, storage.ACTIVATIONS), name, digest)
    data = _manifest_at(str(source))
    manifest = json.loads(data)
    if not isinstance(manifest, dict) or manifest.get("format") != storage.ACTIVATIONS:
        raise InvalidFile(str(source), f"must be of format {storage.ACTIVATIONS}")
    # recorded without a password: git has its own ways to one
    recorded = _SCHEME + without_password(str(source).removeprefix(_SCHEME))
    return ActivationsDataset(manifest, ActivationsSource(recorded, storage.sha256(data)), name, digest)


def dataset_of(
    stored: storage.StoredSet, name: str | None = None, digest: str | None = None
) -> ActivationsDataset:
    """The dataset of a set that has been opened, and so verified, already."""
    folder = stored.folder.resolve()
    origin = ActivationsSource(lasting(folder).as_posix(), stored.sha256, md5_in_lock(folder))
    return ActivationsDataset(stored.manifest, origin, name, digest)


def md5_in_lock(folder: Path) -> str | None:
    """The hash of a folder in the nearest dvc.lock."""
    import yaml

    for root in folder.parents:
        if (root / "dvc.lock").is_file():
            lock = root / "dvc.lock"
            safe = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, ten times as fast
            path = folder.relative_to(root).as_posix()
            try:
                locked = safe(read_text(lock)).get_single_data()
                stages = {} if locked is None else locked.get("stages", {})
                outs = [out for stage in stages.values() for out in stage.get("outs", [])]
                return next((str(out["md5"]) for out in outs if out["path"] == path and "md5" in out), None)
            except (yaml.YAMLError, ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
                raise InvalidFile(
                    lock,
                    f"is not as DVC writes it ({said(error)})",
                    "restore it from git, or end the merge in it",
                ) from None
    return None


def _empty(folder: str | Path | None) -> Path:
    """A folder for files to come."""
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="topoflow-"))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InvalidArgument("dst_path", "an empty folder", str(folder))
    return folder


@contextmanager
def _inside(uri: str) -> Iterator[tuple[Any, str]]:
    """DVC's view of the repository that a URL names, and the path in it."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    parts = urlsplit(uri.removeprefix(_SCHEME))
    query = parse_qs(parts.query)
    if not parts.fragment or set(query) - {"rev"}:
        raise InvalidArgument("source", "like dvc+<repository>?rev=<revision>#<path>", uri)
    repository = parts._replace(query="", fragment="").geturl()
    try:
        yield DVCFileSystem(repository, rev=query.get("rev", [None])[0]), parts.fragment
    except SCMError as error:
        problem = f"must name a DVC repository and a revision of it: {said(error)}"
        raise InvalidFile(uri, problem) from None
    except (DvcException, OSError) as error:
        problem = f"must name an activation set that DVC has or can fetch: {said(error)}"
        raise InvalidFile(uri, problem) from None


def _manifest_at(uri: str) -> bytes:
    with _inside(uri) as (files, path):
        return bytes(files.read_bytes(f"{path}/{storage.MANIFEST}"))


def _get(uri: str, destination: Path) -> Path:
    with _inside(uri) as (files, path):
        files.get(path, str(destination / "set"), recursive=True)
    return destination / "set"


def _restore(folder: Path, md5: str, destination: Path) -> Path:
    """Bring back a folder's former content by its hash in DVC, from the cache or else the default remote."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    place = next((parent for parent in folder.parents if parent.is_dir()), folder)
    whole = HashInfo("md5", md5)
    try:
        with Repo(os.fspath(place)) as repo:
            cache = repo.cache.local
            if not cache.exists(md5):
                repo.cloud.pull([whole])
            files = list(Tree.load(cache, whole))
            if lacking := [info for _, _, info in files if not cache.exists(info.value)]:
                repo.cloud.pull(lacking)
            for key, _, info in files:
                target = destination.joinpath("set", *key)
                if ".." in key:  # a remote's word, and not to be trusted with paths
                    problem = f"must hold files inside it, got {quoted('/'.join(key))}"
                    raise InvalidFile(f"the folder {md5} in DVC", problem)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(cache.oid_to_path(info.value), target)
    except (DvcException, OSError) as error:
        cannot = f"DVC cannot bring back the one logged ({md5}): {said(error)}"
        raise InvalidFile(folder, f"holds another set or none, and {cannot}") from None
    return destination / "set"
