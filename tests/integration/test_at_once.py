"""Several `topoflow run` in one study at the same time, as a user types them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support import Study, environment, lay_down_study, small_params

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, model_cache: Path, warm: Path) -> Study:
    """A cold study of two objectives; the prompts and the rows of one are files of the user's own."""
    folder = tmp_path_factory.mktemp("it's #1, 50% é") / "study"
    params = small_params()
    mine = [{"prompt": f"Name river {n}.", "completion": f"River {n} is wide."} for n in range(100)]
    asked = [{"prompt": f"Describe hill {n}."} for n in range(40)]
    params["objective"]["mine"] = {"source": "file", "path": "mine.jsonl"}
    params["prompts"] = {"source": "file", "path": "asked.jsonl", "n_prompts": 24}
    params["objectives"] = ["helpful", "mine"]
    lay_down_study(folder, params)
    for name, rows in (("mine", mine), ("asked", asked)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return Study(folder, model_cache, warm)


def test_three_runs_begun_together_in_a_cold_study_all_end_well(study):
    """Two of them are the same: the second finds all done, and fills an MLflow run of its own."""
    begun = [
        subprocess.Popen(
            ["topoflow", "run", "--objective", objective],
            cwd=study.folder,
            env=environment(study.programs, TOPOFLOW_CACHE=str(study.cache)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for objective in ("helpful", "mine", "helpful")
    ]
    said = "\n=====\n".join(process.communicate(timeout=500)[0] for process in begun)
    assert [process.returncode for process in begun] == [0, 0, 0], said
    assert "Waiting for the inputs of the study, which process " in said
    for stage in ("prompts", "finetune@tiny-helpful-0", "finetune@tiny-mine-0"):
        assert said.count(f"Running stage '{stage}'") == 1
    names = sorted((run.info.run_name, run.info.status) for run in study.runs())
    assert names == [("tiny-helpful-0", "FINISHED")] * 2 + [("tiny-mine-0", "FINISHED")]
    done = study("dvc", "status", "trajectory@tiny-helpful-0", "trajectory@tiny-mine-0", "--with-deps")
    assert "up to date" in done, done
