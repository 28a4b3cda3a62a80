"""Puts the files of topoflow's own study into the wheel, for `topoflow init`; all else stands in pyproject.toml.

Which can name files within the package only, and these stand in the root, where a clone is a study.
"""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # an isolated build does not look here

from topoflow.study.pins import STUDY_FILES, TEMPLATE  # noqa: E402


class BuildWithStudy(build_py):
    """The usual build, and the files."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # then they are read where they stand
            target = Path(self.build_lib, "topoflow", TEMPLATE)
            target.mkdir(parents=True, exist_ok=True)
            for name in STUDY_FILES:
                shutil.copyfile(ROOT / name, target / name)


setup(cmdclass={"build_py": BuildWithStudy})
