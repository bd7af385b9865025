"""Looks up every pinned dependency's known vulnerabilities; exits 1 for one that has no accepted reason here.

Where the package index answers no such questions (many mirrors do not), it says so, and exits 0: nothing was audited.
"""

import json
import subprocess
import sys
from pathlib import Path

# Id of a vulnerability -> why it does not concern this service.
ACCEPTED: dict[str, str] = {}
AUDIT = (
    "--requirement", "requirements.txt", "--no-deps", "--disable-pip",
    "--format", "json", "--progress-spinner", "off",
)  # fmt: skip


def main() -> int:
    """The exit code."""
    program = Path(sys.executable).with_name("pip-audit")
    asked = subprocess.run([program, *AUDIT], capture_output=True, text=True, timeout=300, check=False)
    if not asked.stdout:
        sys.stderr.write(asked.stderr)
        return 1
    found = json.loads(asked.stdout)["dependencies"]
    audited = [one for one in found if "skip_reason" not in one]
    if not audited:
        sys.stdout.write(f"NOT AUDITED: the package index knows no vulnerabilities of any of {len(found)} packages\n")
        return 0
    open_ones = [(one, v) for one in audited for v in one["vulns"] if v["id"] not in ACCEPTED]
    for one, vulnerability in open_ones:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no release yet"
        sys.stdout.write(f"{one['name']} {one['version']}: {vulnerability['id']}, fixed by {fixed}\n")
    skipped = [one["name"] for one in found if "skip_reason" in one]
    sys.stdout.write(f"{len(audited)} audited, {len(open_ones)} vulnerable; not known to the index: {skipped}\n")
    return 1 if open_ones else 0


if __name__ == "__main__":
    sys.exit(main())
