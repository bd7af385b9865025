"""Renders the chart in a process of its own: Helm's library brings Go's threads and signal handlers along.

A list of values on stdin as JSON; on stdout, for each of them, what `Rendered` in deployment_chart.py holds.
"""

import json
import sys
from pathlib import Path
from typing import Any

import helm_python

CHART = Path(__file__).parent.parent / "helm" / "sfm-graph"


def render(chart: helm_python.Chart, values: dict[str, Any]) -> dict[str, Any]:
    try:
        files = chart.render(values, name="sfm", namespace="prod")
    except helm_python.HelmError as error:
        return {"refusal": str(error), "files": {}, "findings": []}
    report = helm_python.lint(CHART, values, strict=True)
    findings = [*(one["error"] for one in report["messages"] or ()), *report["errors"]]
    return {"refusal": None, "files": files, "findings": findings}


if __name__ == "__main__":
    with helm_python.Chart.load(CHART) as opened:
        json.dump([render(opened, values) for values in json.load(sys.stdin)], sys.stdout)
