"""`python -m sfm_consumers.effects.audit_verify FILE`: whether an audit is whole and as it was written."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sfm_consumers.effects.audit_chain import Broken, Verified, verify
from sfm_consumers.effects.audit_file import audit_lines, audit_paths


def verify_file(path: Path) -> Verified:
    """Check an audit with all its rotated files. Raises Broken, OSError."""
    return verify(audit_lines(audit_paths(path)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: whole; 1: not, with the first line at fault on stderr; 2: not readable."""
    parser = argparse.ArgumentParser(prog="audit_verify", description="Check an audit with all its rotated files.")
    parser.add_argument("file", type=Path, help="the audit's current file")
    parser.add_argument("--last", help="the hash that the last line must have: shows a cut end")
    given = parser.parse_args(arguments)
    try:
        found = verify_file(given.file)
        if given.last is not None and found.last != given.last:
            raise Broken(f"the last line has the hash {found.last}")
    except Broken as error:
        sys.stderr.write(f"{given.file}: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{given.file}: {error.strerror}\n")
        return 2
    sys.stdout.write(f"{found.lines} lines, last hash {found.last}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
