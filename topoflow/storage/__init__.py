"""Where everything lies on disk, and in what form: written whole or not at all, and vouched for by hashes.

`sets` are activations and diagrams, `layout` says where the files of a study stand, `schemas` what each JSON file must
hold, `files` is the one place that opens, writes, locks and removes, and `kept` holds arrays that are dear to compute.
"""

from topoflow.storage.files import WORK_FOLDER, sha256_of_file, write_file
from topoflow.storage.sets import (
    ACTIVATIONS,
    DIAGRAMS,
    MANIFEST,
    StoredSet,
    array_bytes,
    array_from,
    behaviour_name,
    cell_name,
    code_sha256,
    diagram_bytes,
    json_bytes,
    made_from_another,
    open_set,
    quantities_name,
    read_quantities,
    recorded_names,
    roots_name,
    seal,
    sha256,
    sole_writer,
    writing,
)

__all__ = [
    "ACTIVATIONS",
    "DIAGRAMS",
    "MANIFEST",
    "WORK_FOLDER",
    "StoredSet",
    "array_bytes",
    "array_from",
    "behaviour_name",
    "cell_name",
    "code_sha256",
    "diagram_bytes",
    "json_bytes",
    "made_from_another",
    "open_set",
    "quantities_name",
    "read_quantities",
    "recorded_names",
    "roots_name",
    "seal",
    "sha256",
    "sha256_of_file",
    "sole_writer",
    "write_file",
    "writing",
]
