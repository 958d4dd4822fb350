"""Holds what requirements.lock pins against the known vulnerabilities, with pip-audit in an environment of its own.

Ends with 1 when a pinned version is known to be vulnerable. Where the advisories cannot be had (no network, a mirror
without them) it says so loudly and ends with 0: what could not be looked at is no finding.

Usage: python scripts/audit.py      (`make audit`)
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
FOLDER = ROOT / "build" / "audit"
_INSTALL_DEADLINE_S = 120
_AUDIT_DEADLINE_S = 60


def main() -> int:
    python = FOLDER / "bin" / "python"
    try:
        if not python.exists():
            venv.create(FOLDER, with_pip=True, clear=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "pip-audit>=2.9"]
        subprocess.run([python, *install], check=True, timeout=_INSTALL_DEADLINE_S, stderr=subprocess.PIPE, text=True)
        options = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json", f"--requirement={LOCK}"]
        done = subprocess.run(
            [python, "-m", "pip_audit", *options],
            check=False,
            timeout=_AUDIT_DEADLINE_S,
            capture_output=True,
            text=True,
        )
        found = json.loads(done.stdout)["dependencies"]
    except (OSError, subprocess.SubprocessError, ValueError, LookupError) as error:
        return _not_audited(f"{type(error).__name__}: {error}")
    return judge(found)


def judge(dependencies: list[dict[str, Any]]) -> int:
    """Says what was found; returns the exit status.

    Args:
        dependencies: what pip-audit says of each: name, version, and vulns or skip_reason.
    """
    vulnerable = [each for each in dependencies if each.get("vulns")]
    skipped = [each for each in dependencies if "skip_reason" in each]
    for each in vulnerable:
        for finding in each["vulns"]:
            fixed = ", ".join(finding.get("fix_versions", ())) or "no version yet"
            print(f"{each['name']} {each['version']}: {finding['id']}, fixed in {fixed}")
    if vulnerable:
        print(f"{len(vulnerable)} of {len(dependencies)} packages in {LOCK.name} are known to be vulnerable")
        return 1
    if skipped:
        return _not_audited(f"there are no advisories for {len(skipped)} of {len(dependencies)} packages here")
    print(f"{len(dependencies)} packages in {LOCK.name}, none known to be vulnerable")
    return 0


def _not_audited(why: str) -> int:
    print(f"audit: {LOCK.name} was NOT audited: {why}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
