"""Sets on disk: what comes back is what was written, and what was altered is found out."""

import io
import json
import os
import pickle
import signal
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support import contents, holding, in_another_process, refused

from topoflow import storage
from topoflow.errors import InvalidFile
from topoflow.storage import (
    ACTIVATIONS,
    DIAGRAMS,
    MANIFEST,
    array_bytes,
    cell_name,
    diagram_bytes,
    open_set,
    seal,
    write_file,
    writing,
)

reproducible = settings(deadline=None, derandomize=True, max_examples=60)
ALTERED = "does not match its manifest"
STEPS, LAYERS = [0, 2, 16], [0, 5]
FACTS = {"steps": STEPS, "layers": LAYERS, "model": "tiny"}


def cloud(step, layer):
    return np.random.default_rng([step, layer]).normal(size=(6, 4)).astype(np.float32)


def bars(rng, n, dimension):
    births = rng.uniform(0.1, 1, size=n) * dimension
    return np.column_stack([births, births + rng.uniform(0, 1, size=n)])


def cell_diagrams(step=0, layer=0):
    rng = np.random.default_rng([step, layer])
    return [[bars(rng, 5, 0), bars(rng, n, 1)] for n in (3, 0, 1, 0)]


def sealed(folder, suffix=".npy"):
    """A set of three checkpoints and two layers."""
    names = []
    for step in STEPS:
        for layer in LAYERS:
            names.append(cell_name(step, layer) + suffix)
            data = array_bytes(cloud(step, layer)) if suffix == ".npy" else diagram_bytes(cell_diagrams())
            write_file(folder / names[-1], data)
    seal(folder, {"format": ACTIVATIONS if suffix == ".npy" else DIAGRAMS, **FACTS}, names)
    return folder


@pytest.fixture
def study(tmp_path, monkeypatch):
    """An empty folder of a study, where commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestArrays:
    @reproducible
    @given(
        array=hnp.arrays(
            st.sampled_from([np.float16, np.float32, np.float64]),
            hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6),
        )
    )
    def test_an_activation_array_comes_back_bit_by_bit(self, tmp_path_factory, array):
        folder = tmp_path_factory.mktemp("set")
        name = cell_name(3, 1) + ".npy"
        write_file(folder / name, array_bytes(array))
        seal(folder, {"format": ACTIVATIONS, "steps": [3], "layers": [1]}, [name])
        back = open_set(folder, ACTIVATIONS).point_cloud(3, 1)
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert back.tobytes() == array.tobytes()

    def test_the_bytes_do_not_depend_on_how_the_array_lies_in_memory(self):
        array = cloud(0, 0)
        wide = np.zeros((6, 8), np.float32)
        wide[:, ::2] = array
        assert array_bytes(np.asfortranarray(array)) == array_bytes(array)
        assert array_bytes(wide[:, ::2]) == array_bytes(array)

    def test_every_cell_is_found_under_its_own_step_and_layer(self, tmp_path):
        stored = open_set(sealed(tmp_path / "set"), ACTIVATIONS)
        assert stored.steps == (0, 2, 16)
        assert stored.layers == (0, 5)
        for step in STEPS:
            for layer in LAYERS:
                np.testing.assert_array_equal(stored.point_cloud(step, layer), cloud(step, layer))

    @pytest.mark.parametrize(("step", "layer"), [(1, 0), (0, 1), (5, 0)])
    def test_a_cell_that_was_not_recorded_is_answered_with_those_that_were(self, tmp_path, step, layer):
        stored = open_set(sealed(tmp_path / "set"), ACTIVATIONS)
        expected, got = "recorded ones (steps [0, 2, 16], layers [0, 5])", f"step {step}, layer {layer}"
        with refused(name="step and layer", expected=expected, got=got):
            stored.point_cloud(step, layer)

    def test_a_point_cloud_is_not_looked_for_in_a_diagram_set(self, tmp_path):
        stored = open_set(sealed(tmp_path / "set", ".npz"), DIAGRAMS)
        with refused(name="step and layer", expected="recorded ones"):
            stored.point_cloud(0, 0)


@st.composite
def diagrams_of_a_cell(draw):
    """Any number of subsamples, any number of bars each, some of them infinite."""

    def diagram():
        n_bars = draw(st.integers(0, 4))
        births = draw(hnp.arrays(np.float64, n_bars, elements=st.floats(0, 1e6)))
        lengths = draw(hnp.arrays(np.float64, n_bars, elements=st.one_of(st.floats(0, 1e6), st.just(np.inf))))
        return np.column_stack([births, births + lengths])

    dimensions = draw(st.sampled_from([2, 3]))
    return [[diagram() for _ in range(dimensions)] for _ in range(draw(st.integers(dimensions - 2, 5)))]


class TestDiagrams:
    @staticmethod
    def there_and_back(folder, diagrams):
        name = cell_name(0, 0) + ".npz"
        write_file(folder / name, diagram_bytes(diagrams))
        maxdim = len(diagrams[0]) - 1 if diagrams else 1
        seal(folder, {"format": DIAGRAMS, "steps": [0], "layers": [0], "maxdim": maxdim}, [name])
        return open_set(folder, DIAGRAMS).diagrams(0, 0)

    @staticmethod
    def assert_same(found, expected):
        assert len(found) == len(expected)
        for pair, other in zip(found, expected, strict=True):
            for diagram, wanted in zip(pair, other, strict=True):
                assert diagram.dtype == np.float64
                assert diagram.shape == wanted.shape
                assert diagram.tobytes() == wanted.tobytes()

    @reproducible
    @given(diagrams=diagrams_of_a_cell())
    def test_ragged_diagrams_come_back_bit_by_bit(self, tmp_path_factory, diagrams):
        self.assert_same(self.there_and_back(tmp_path_factory.mktemp("set"), diagrams), diagrams)

    def test_many_subsamples_without_an_h1_bar_stay_as_many(self, tmp_path):
        rng = np.random.default_rng(1)
        diagrams = [[bars(rng, 7, 0), np.empty((0, 2))] for _ in range(64)]
        self.assert_same(self.there_and_back(tmp_path, diagrams), diagrams)

    def test_empty_subsamples_at_either_end_and_in_between_keep_their_places(self, tmp_path):
        rng = np.random.default_rng(2)
        diagrams = [[np.empty((0, 2)), bars(rng, n, 1)] for n in (0, 0, 3, 0, 2, 0)]
        found = self.there_and_back(tmp_path, diagrams)
        assert [len(h1) for _, h1 in found] == [0, 0, 3, 0, 2, 0]
        self.assert_same(found, diagrams)

    def test_an_infinite_death_stays_infinite(self, tmp_path):
        diagrams = [[np.array([[0.0, 0.5], [0.0, np.inf]]), np.empty((0, 2))]]
        assert self.there_and_back(tmp_path, diagrams)[0][0][1, 1] == np.inf


class TestSameBytes:
    SCRIPT = """
import sys, numpy as np
from topoflow.storage import array_bytes, diagram_bytes, sha256
rng = np.random.default_rng(5)
cloud = rng.normal(size=(20, 8)).astype(np.float32)
diagrams = [[rng.uniform(size=(9, 2)), rng.uniform(size=(n, 2))] for n in (4, 0, 2)]
print(sha256(array_bytes(cloud)), sha256(diagram_bytes(diagrams)))
"""

    def test_the_zip_headers_are_the_plain_ones_that_every_python_writes(self):
        data = storage.diagram_bytes([[np.zeros((1, 2)), np.zeros((0, 2))]])
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
        assert [member.filename for member in members] == [
            "h0.npy",
            "h0_offsets.npy",
            "h1.npy",
            "h1_offsets.npy",
        ]
        assert {(m.create_version, m.extract_version, m.flag_bits, m.date_time) for m in members} == {
            (20, 20, 0, (1980, 1, 1, 0, 0, 0))
        }

    def test_equal_arrays_give_equal_bytes_in_another_process_at_another_time(self):
        printed = [
            in_another_process(self.SCRIPT, PYTHONHASHSEED=seed, TZ=zone)
            for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))
        ]
        rng = np.random.default_rng(5)
        array = rng.normal(size=(20, 8)).astype(np.float32)
        diagrams = [[rng.uniform(size=(9, 2)), rng.uniform(size=(n, 2))] for n in (4, 0, 2)]
        here = f"{storage.sha256(array_bytes(array))} {storage.sha256(diagram_bytes(diagrams))}\n"
        assert printed == [here, here]

    def test_equal_sets_have_equal_bytes_wherever_they_stand_and_whatever_the_order(self, tmp_path):
        one = sealed(tmp_path / "one")
        other = tmp_path / "some" / "where" / "else"
        names = [cell_name(step, layer) + ".npy" for step in STEPS for layer in LAYERS]
        for name in reversed(names):
            write_file(other / name, (one / name).read_bytes())
        seal(other, dict(reversed({"format": ACTIVATIONS, **FACTS}.items())), iter(reversed(names)))
        assert contents(one) == contents(other)
        assert open_set(one, ACTIVATIONS).sha256 == open_set(other, ACTIVATIONS).sha256

    def test_a_set_is_identified_by_all_that_it_holds(self, tmp_path):
        one, other = sealed(tmp_path / "one"), sealed(tmp_path / "other")
        name = cell_name(0, 0) + ".npy"
        write_file(other / name, array_bytes(cloud(0, 0) + 1))
        seal(other, {"format": ACTIVATIONS, **FACTS}, [name])
        assert open_set(one, ACTIVATIONS).sha256 != open_set(other, ACTIVATIONS).sha256

    def test_json_is_sorted_readable_and_without_nan(self):
        assert (
            storage.json_bytes({"b": "é", "a": [1]}) == '{\n  "a": [\n    1\n  ],\n  "b": "é"\n}\n'.encode()
        )
        with pytest.raises(ValueError, match="not JSON compliant"):
            storage.json_bytes({"a": float("nan")})


class TestSealAndOpen:
    def test_the_manifest_says_what_was_given_and_the_hash_of_every_file(self, tmp_path):
        manifest = json.loads((sealed(tmp_path / "set") / MANIFEST).read_bytes())
        files = manifest.pop("files")
        assert manifest == {"format": ACTIVATIONS, **FACTS}
        found = contents(tmp_path / "set")
        assert files == {name: storage.sha256(data) for name, data in found.items() if name != MANIFEST}
        assert len(files) == 6

    def test_files_that_do_not_belong_to_the_set_are_removed(self, tmp_path):
        for name in ("stray.txt", "step_000002/layer_09.npy", "step_000002/layer_00.npy.part", "a/b/c"):
            write_file(tmp_path / "set" / name, b"left by an interrupted run")
        found = contents(sealed(tmp_path / "set"))
        assert set(found) == {MANIFEST, *json.loads(found[MANIFEST])["files"]}
        open_set(tmp_path / "set", ACTIVATIONS)

    def test_a_file_that_is_to_be_sealed_must_be_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"layer_00\.npy"):
            seal(tmp_path, {"format": ACTIVATIONS}, ["step_000000/layer_00.npy"])
        assert not (tmp_path / MANIFEST).exists()

    def test_an_untouched_set_opens(self, tmp_path):
        stored = open_set(sealed(tmp_path / "set"), ACTIVATIONS)
        assert stored.folder == tmp_path / "set"
        assert stored.manifest["model"] == "tiny"
        assert stored.sha256 == storage.sha256_of_file(tmp_path / "set" / MANIFEST)

    @reproducible
    @given(data=st.data())
    def test_one_flipped_bit_anywhere_is_found(self, tmp_path_factory, data):
        folder = sealed(tmp_path_factory.mktemp("sets") / "set")
        path = folder / (cell_name(2, 5) + ".npy")
        flipped = bytearray(path.read_bytes())
        bit = data.draw(st.integers(0, 8 * len(flipped) - 1))
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with refused(InvalidFile, path=path, problem=ALTERED):
            open_set(folder, ACTIVATIONS)

    @pytest.mark.parametrize("keep", [0, 1, -1])
    def test_a_truncated_file_is_found(self, tmp_path, keep):
        path = sealed(tmp_path / "set") / (cell_name(16, 0) + ".npy")
        path.write_bytes(path.read_bytes()[:keep])
        with refused(InvalidFile, path=path, problem=ALTERED):
            open_set(tmp_path / "set", ACTIVATIONS)

    def test_two_files_that_changed_places_are_found(self, tmp_path):
        folder = sealed(tmp_path / "set")
        one, other = (folder / (cell_name(step, 0) + ".npy") for step in (0, 2))
        one_data, other_data = one.read_bytes(), other.read_bytes()
        assert len(one_data) == len(other_data)
        one.write_bytes(other_data)
        other.write_bytes(one_data)
        with refused(InvalidFile, path=one, problem=ALTERED):
            open_set(folder, ACTIVATIONS)

    def test_the_error_of_an_altered_file_gives_both_hashes_and_the_way_back(self, tmp_path):
        folder = sealed(tmp_path / "set")
        path = folder / (cell_name(0, 0) + ".npy")
        expected = storage.sha256_of_file(path)
        path.write_bytes(b"other")
        problem = f"{ALTERED} (SHA-256 {expected[:12]}, got {storage.sha256(b'other')[:12]})"
        with refused(InvalidFile, path=path, problem=problem, remedy=f"topoflow repair {folder}"):
            open_set(folder, ACTIVATIONS)

    def test_a_missing_file_is_found(self, tmp_path):
        folder = sealed(tmp_path / "set")
        path = folder / (cell_name(2, 0) + ".npy")
        path.unlink()
        with refused(InvalidFile, path=path, problem="is missing", remedy=f"topoflow repair {folder}"):
            open_set(folder, ACTIVATIONS)

    def test_a_set_of_the_other_format_is_refused(self, tmp_path):
        sealed(tmp_path / "set")
        problem = f"must be of format {DIAGRAMS}, got '{ACTIVATIONS}'"
        with refused(InvalidFile, path=tmp_path / "set", problem=problem):
            open_set(tmp_path / "set", DIAGRAMS)

    @pytest.mark.parametrize("there", [True, False])
    def test_a_folder_without_a_manifest_is_no_set(self, tmp_path, there):
        if there:
            (tmp_path / "set").mkdir()
        with refused(InvalidFile, path=tmp_path / "set", remedy="dvc pull"):
            open_set(tmp_path / "set", ACTIVATIONS)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            "3",
            '"files"',
            "{}",
            '{"format": "topoflow.activations/1"}',
            '{"files": {}}',
            '{"format": "topoflow.activations/1", "files": null}',
            '{"format": "topoflow.activations/1", "files": ["ab"]}',
            "\xff\xfe",
        ],
    )
    def test_a_malformed_manifest_is_refused(self, tmp_path, text):
        (tmp_path / MANIFEST).write_bytes(text.encode("latin-1"))
        with refused(InvalidFile, path=tmp_path / MANIFEST, problem="must be a manifest of topoflow: "):
            open_set(tmp_path, ACTIVATIONS)

    @pytest.mark.parametrize("digest", [5, None, [], ""])
    def test_a_digest_that_is_none_vouches_for_nothing(self, tmp_path, digest):
        folder = sealed(tmp_path / "set")
        manifest = json.loads((folder / MANIFEST).read_bytes())
        manifest["files"][cell_name(0, 0) + ".npy"] = digest
        (folder / MANIFEST).write_bytes(storage.json_bytes(manifest))
        with refused(InvalidFile, path=folder / (cell_name(0, 0) + ".npy"), problem=ALTERED):
            open_set(folder, ACTIVATIONS)


class Trap:
    """An object whose unpickling leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestPickles:
    def test_an_array_of_objects_is_not_written(self):
        objects = np.array([[{}]], dtype=object)
        with pytest.raises(ValueError, match="allow_pickle=False"):
            array_bytes(objects)
        with pytest.raises(ValueError, match="allow_pickle=False"):
            diagram_bytes([[objects, objects]])

    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    def test_one_that_a_manifest_vouches_for_is_not_unpickled(self, tmp_path, suffix):
        folder, sprung = tmp_path / "set", tmp_path / "sprung"
        name = cell_name(0, 0) + suffix
        (folder / name).parent.mkdir(parents=True)
        trap = np.array([Trap(sprung)], dtype=object)
        if suffix == ".npy":
            np.save(folder / name, trap, allow_pickle=True)
        else:
            np.savez(folder / name, allow_pickle=True, h0=trap, h0_offsets=[0, 1], h1=trap, h1_offsets=[0, 1])
        form = ACTIVATIONS if suffix == ".npy" else DIAGRAMS
        seal(folder, {"format": form, "steps": [0], "layers": [0]}, [name])
        stored = open_set(folder, form)
        with refused(InvalidFile, path=folder / name, problem="allow_pickle=False"):
            stored.point_cloud(0, 0) if suffix == ".npy" else stored.diagrams(0, 0)
        assert not sprung.exists()

    def test_a_bare_pickle_in_place_of_an_array_is_not_unpickled(self, tmp_path):
        name = cell_name(0, 0) + ".npy"
        write_file(tmp_path / "set" / name, pickle.dumps(Trap(tmp_path / "sprung")))
        seal(tmp_path / "set", {"format": ACTIVATIONS, "steps": [0], "layers": [0]}, [name])
        stored = open_set(tmp_path / "set", ACTIVATIONS)
        with refused(InvalidFile, path=tmp_path / "set" / name, problem="pickled"):
            stored.point_cloud(0, 0)
        assert not (tmp_path / "sprung").exists()


class TestWriteFile:
    def test_it_makes_the_folder_writes_the_bytes_and_leaves_nothing_else(self, tmp_path):
        write_file(tmp_path / "a" / "b" / "file.npy", b"\x00\r\n\xff")
        assert contents(tmp_path) == {"a/b/file.npy": b"\x00\r\n\xff"}

    def test_a_hard_linked_sibling_keeps_its_bytes(self, tmp_path):
        # as between a workspace and DVC's cache with cache.type hardlink
        cached, file = tmp_path / "cache", tmp_path / "file"
        cached.write_bytes(b"versioned")
        os.link(cached, file)
        write_file(file, b"new")
        assert cached.read_bytes() == b"versioned"
        assert file.read_bytes() == b"new"
        assert not cached.samefile(file)

    def test_a_symbolic_link_is_replaced_and_not_written_through(self, tmp_path):
        (tmp_path / "cache").write_bytes(b"versioned")
        (tmp_path / "file").symlink_to(tmp_path / "cache")
        write_file(tmp_path / "file", b"new")
        assert contents(tmp_path) == {"cache": b"versioned", "file": b"new"}

    def test_a_write_that_fails_leaves_the_old_file(self, tmp_path, monkeypatch):
        def full(descriptor):
            raise OSError(28, "No space left on device")

        write_file(tmp_path / "file", b"old")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_file(tmp_path / "file", b"new")
        assert (tmp_path / "file").read_bytes() == b"old"

    def test_what_comes_in_pieces_is_written_whole_or_not_at_all(self, tmp_path):
        write_file(tmp_path / "file", (bytes([n]) for n in range(3)))
        assert contents(tmp_path) == {"file": b"\0\1\2"}

        def half():
            yield b"half"
            raise ValueError("no more")

        with pytest.raises(ValueError, match="no more"):
            write_file(tmp_path / "file", half())
        assert contents(tmp_path) == {"file": b"\0\1\2"}

    def test_a_leftover_of_an_interrupted_write_does_not_get_into_the_file(self, tmp_path):
        (tmp_path / "file.part").write_bytes(b"half of something much longer")
        write_file(tmp_path / "file", b"new")
        assert contents(tmp_path) == {"file": b"new"}


FOLDER = "activations/tiny/helpful"
KEY = "0123456789abcdef" * 4

HOLDER = """
import sys
from topoflow.storage import write_file, writing
with writing(sys.argv[1], sys.argv[2]) as work:
    write_file(work / "cell", b"by the other process")
    print("holding", flush=True)
    sys.stdin.readline()
"""


def interrupted(error):
    """Write half of FOLDER's set, then fail."""
    with writing(FOLDER, KEY) as work:
        (work / "half").write_bytes(b"half")
        raise error


@pytest.fixture
def holder(study):
    """Another process that is in the middle of writing FOLDER."""
    with holding(HOLDER, FOLDER, KEY) as process:
        yield process


class TestWriting:
    def test_the_set_stands_under_its_name_only_when_it_is_whole(self, study):
        with writing(FOLDER, KEY) as work:
            (work / "one").write_bytes(b"1")
            assert not (study / FOLDER).exists()
        assert contents(study / FOLDER) == {"one": b"1"}
        assert not work.exists()

    def test_success_replaces_all_of_the_old_set(self, study):
        write_file(study / FOLDER / "step" / "old", b"old")
        with writing(FOLDER, KEY) as work:
            (work / "new").write_bytes(b"new")
            assert contents(study / FOLDER) == {"step/old": b"old"}
        assert contents(study / FOLDER) == {"new": b"new"}

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_failure_keeps_the_old_set_and_the_work_for_a_rerun_with_the_same_key(self, study, error):
        write_file(study / FOLDER / "old", b"old")
        with pytest.raises(error):
            interrupted(error)
        assert contents(study / FOLDER) == {"old": b"old"}
        with writing(FOLDER, KEY) as work:
            assert contents(work) == {"half": b"half"}
            (work / "rest").write_bytes(b"rest")
        assert contents(study / FOLDER) == {"half": b"half", "rest": b"rest"}

    def test_a_rerun_with_other_inputs_starts_empty(self, study):
        with pytest.raises(RuntimeError):
            interrupted(RuntimeError)
        with writing(FOLDER, "f" * 64) as work:
            assert contents(work) == {}

    def test_a_rerun_after_success_starts_empty(self, study):
        with writing(FOLDER, KEY) as work:
            (work / "one").write_bytes(b"1")
        with writing(FOLDER, KEY) as work:
            assert contents(work) == {}

    def test_other_sets_may_be_written_at_the_same_time(self, study):
        others = [
            os.path.join("activations", "tiny", "harmless"),
            os.path.join("diagrams", "tiny", "helpful"),
        ]
        with writing(FOLDER, KEY) as a, writing(others[0], KEY) as b, writing(others[1], KEY) as c:
            assert len({a, b, c}) == 3
            for work in (a, b, c):
                (work / "name").write_text(str(work))
        assert [(study / f / "name").read_text() for f in (FOLDER, *others)] == [str(w) for w in (a, b, c)]

    def test_a_second_writer_of_the_same_set_is_refused_and_the_first_goes_on(self, study, holder):
        with refused(InvalidFile, path=FOLDER, problem=f"process {holder.pid} "), writing(FOLDER, KEY):
            pytest.fail("two processes write one folder")
        holder.communicate("go on\n", timeout=60)
        assert holder.returncode == 0
        assert contents(study / FOLDER) == {"cell": b"by the other process"}
        with writing(FOLDER, KEY) as work:  # and now it is free
            assert contents(work) == {}

    def test_what_a_killed_writer_left_is_found_and_its_lock_is_gone(self, study, holder):
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=60)
        assert not (study / FOLDER).exists()
        with writing(FOLDER, KEY) as work:
            assert contents(work) == {"cell": b"by the other process"}

    def test_there_is_a_folder_to_work_in_even_if_the_first_writer_ends_as_the_second_one_starts(
        self, study, monkeypatch
    ):
        import fcntl

        def ends_now(lock, flags):
            for path in (study / ".topoflow" / "writing").glob("*"):
                if path.is_dir():
                    path.rename(study / "done")

        monkeypatch.setattr(fcntl, "flock", ends_now)
        with writing(FOLDER, KEY) as work:
            assert work.is_dir()
