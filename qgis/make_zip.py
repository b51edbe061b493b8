"""Pack the QGIS plugin: ``python qgis/make_zip.py dist/footprints-qgis.zip``.

QGIS installs it under Plugins > Manage and Install Plugins > Install from ZIP.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

PLUGIN = Path(__file__).parent / "building_footprints"
LICENCE = Path(__file__).parent.parent / "LICENSE"
_TIME = (2000, 1, 1, 0, 0, 0)
"""Equal sources give equal bytes."""


def make_zip(target: Path) -> None:
    """Write the plugin's folder and the licence, which QGIS's repository asks for."""
    files = sorted(path for path in PLUGIN.iterdir() if path.is_file())
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in [*files, LICENCE]:
            entry = zipfile.ZipInfo(f"{PLUGIN.name}/{path.name}", _TIME)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())


if __name__ == "__main__":
    make_zip(Path(sys.argv[1]))
