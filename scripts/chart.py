#!/usr/bin/env python3
"""Makes what the Helm chart says twice: `make chart`; with --check it only compares.

- helm/lapwing/README.md from README.in.md and the comments of values.yaml
- `config` in helm/lapwing/values.schema.json from config/default.toml, which names every setting
"""

import json
import re
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
CHART = ROOT / "helm/lapwing"
DURATION = r"^([0-9]+ *(ns|us|ms|s|sec|second|m|min|minute|h|hr|hour|d|day)s? *)+$"
NAME = "^[a-z][a-z0-9]*(_[a-z0-9]+)*$"

# What a sample value does not tell; a test holds the words equal to the worker's.
SPECIAL = {
    "broker.url": {"type": ["string", "array"], "items": {"type": "string"}},
    "log.format": {"enum": ["text", "json"]},
    "telemetry.protocol": {"enum": ["grpc", "http/protobuf"]},
    "telemetry.parent": {"enum": ["child", "link"]},
    "telemetry.sample": {"type": "number", "minimum": 0, "maximum": 1},
    "consumers.*.topology": {"enum": ["declare", "verify", "none"]},
    "consumers.*.queue_type": {"enum": ["quorum", "classic"]},
    "consumers.*.decode": {"enum": ["auto", "json", "bytes"]},
    "consumers.*.prefetch": {"type": "integer", "minimum": 1, "maximum": 65535},
    "consumers.*.concurrency": {"type": "integer", "minimum": 1, "maximum": 65535},
    "consumers.*.retry.max_attempts": {"type": "integer", "minimum": 1},
}
HANDLER_KINDS = {"enum": ["http", "log", "none"]}


# --- The schema of the worker's configuration --------------------------------


def settings():
    """Every setting of config/default.toml, those without a default too: values, and comments by path."""
    lines = (ROOT / "config/default.toml").read_text().splitlines()
    text, comments, comment, section = [], {}, [], ""
    for line in lines:
        setting = re.fullmatch(r"#?((\[?[a-z_]+)(\]| = |\.).*)", line)
        if line.startswith("# ") and comment is not None:
            comment.append(line[2:])
        elif setting:
            line = setting[1]
            text.append(line)
            if line.startswith("["):
                section = line.strip("[]").replace("consumers.orders", "consumers.*")
                section = re.sub(r'types\..*', "types.*", section)
                path = section
            else:
                path = f"{section}.{line.split(' = ')[0]}"
            comments[path] = " ".join(comment)
            comment = []
        else:
            text.append(line)
            comment = []
    return tomllib.loads("\n".join(text)), comments


def schema_of(path, value, comments):
    if path.endswith("handler.kind") or path.endswith("types.*.kind"):
        schema = dict(HANDLER_KINDS)
    elif path in SPECIAL:
        schema = dict(SPECIAL[path])
    elif isinstance(value, dict):
        schema = schema_of_table(path, value, comments)
    elif isinstance(value, bool):
        schema = {"type": "boolean"}
    elif isinstance(value, int):
        schema = {"type": "integer", "minimum": 0}
    elif isinstance(value, float):
        schema = {"type": "number"}
    elif isinstance(value, list):
        schema = {"type": "array"}
    elif re.match(DURATION, value):
        schema = {"type": "string", "pattern": DURATION}
    else:
        schema = {"type": "string"}
    if comments.get(path):
        schema["description"] = comments[path]
    return schema


def schema_of_table(path, table, comments):
    if path in ("consumers", "consumers.*.types"):
        sample = schema_of(f"{path}.*", next(iter(table.values())), comments)
        schema = {"type": "object", "additionalProperties": sample}
        if path == "consumers":
            sample["required"] = ["queue"]
            schema["propertyNames"] = {"pattern": NAME}
        return schema
    if path.endswith(".headers"):
        return {"type": "object", "additionalProperties": {"type": "string"}}
    properties = {key: schema_of(f"{path}.{key}".lstrip("."), value, comments) for key, value in table.items()}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def schema():
    whole = json.loads((CHART / "values.schema.json").read_text())
    whole["properties"]["config"] = schema_of("", *settings())
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


# --- README ------------------------------------------------------------------


def documented(text):
    """Path and comment of each value with `# --` above it, in order."""
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
    stale = []
    for name, made in (("values.schema.json", schema()), ("README.md", readme())):
        file = CHART / name
        if not file.exists() or file.read_text() != made:
            stale.append(name)
            if "--check" not in sys.argv:
                file.write_text(made)
    if stale and "--check" in sys.argv:
        sys.exit(f"not as `make chart` makes them: {', '.join(stale)}")


main()
