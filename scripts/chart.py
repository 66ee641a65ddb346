#!/usr/bin/env python3
"""Makes helm/lapwing/README.md from README.in.md and the comments of values.yaml, and copies the alerts and
the dashboard into the chart: `make chart`.

With --check it only compares the README, and fails if it is not up to date.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
CHART = ROOT / "helm/lapwing"


def documented(text):
    """Yields path and comment of each value that has a `# --` comment above it, in order."""
    path, comment = [], None
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped[5:]]
        elif stripped.startswith("# ") and comment:
            comment.append(stripped[2:])
        elif key := re.match(r"( *)([A-Za-z]+):", line):
            depth = len(key[1]) // 2
            path = path[:depth] + [key[2]]
            if comment:
                yield ".".join(path), " ".join(comment)
            comment = None


def cell(text):
    return text.replace("|", "\\|")


def values_table():
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    rows = ["| Value | Default | Meaning |", "| --- | --- | --- |"]
    for path, comment in documented(text):
        value = values
        for key in path.split("."):
            value = value[key]
        default = json.dumps(value, ensure_ascii=False)
        default = f"`{cell(default)}`" if len(default) <= 60 else "see [values.yaml](values.yaml)"
        rows.append(f"| `{path}` | {default} | {cell(comment)} |")
    return "\n".join(rows)


def readme():
    return (CHART / "README.in.md").read_text().replace("@VALUES@", values_table())


def main():
    file = CHART / "README.md"
    made = readme()
    if "--check" not in sys.argv:
        shutil.copyfile(ROOT / "deploy/prometheus/rules.yml", CHART / "files/rules.yml")
        shutil.copyfile(ROOT / "deploy/grafana/lapwing.json", CHART / "files/dashboard.json")
    if file.read_text() == made:
        return
    if "--check" in sys.argv:
        sys.exit("helm/lapwing/README.md is out of date: run `make chart`")
    file.write_text(made)


main()
