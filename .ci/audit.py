"""Compares the packages of an environment with PyPI's known vulnerabilities: `audit.py PYTHON`.

Ends with 1 if one is known, and with 0 and a line where the database cannot be reached.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def main(python: str) -> int:
    """The script, run by the Python that has pip-audit. Returns its exit code."""
    command = [str(Path(sys.executable).with_name("pip-audit")), "--format", "json"]
    command += ["--progress-spinner", "off"]
    environment = {**os.environ, "PIPAPI_PYTHON_LOCATION": python}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    try:
        packages = json.loads(ended.stdout)["dependencies"]
    except (ValueError, KeyError):
        packages = []
    compared = [package for package in packages if "vulns" in package]
    if not compared:
        lines = ended.stderr.strip().splitlines() or ["no answer"]
        print(f"nothing is compared, PyPI's database cannot be reached ({lines[-1][:200]})")
        return 0
    found = [(p["name"], p["version"], each) for p in compared for each in p["vulns"]]
    for name, version, each in found:
        print(f"{name} {version}: {each['id']}, mended in {', '.join(each['fix_versions']) or '?'}")
    print(f"{len(compared)} of {len(packages)} packages are compared, {len(found)} vulnerabilities")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
