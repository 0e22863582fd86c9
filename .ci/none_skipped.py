"""Fail where a pytest report (``--junitxml``) has a skipped test, or no tests at all."""

from __future__ import annotations

import sys
from xml.etree import ElementTree


def main(report: str) -> int:
    """Print every skipped test with its reason; return the exit code."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    skipped = [(case, skip) for case in cases for skip in case.iter("skipped")]
    for case, skip in skipped:
        print(f"skipped: {case.get('classname')}::{case.get('name')}: {skip.get('message')}")
    print(f"{len(cases)} tests, {len(skipped)} skipped")
    return 0 if cases and not skipped else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
