"""The release that this program belongs to. Both programs have the same file.

Neither program is ever installed as a package: each runs from the folder that has both. So the version is
read from the pyproject.toml beside them, which is the only place that states it.
"""

import tomllib
from pathlib import Path
from typing import Final

VERSION: Final[str] = tomllib.loads(
    Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8")
)["project"]["version"]
