"""YAML for the tests of the deployment: `json` prints the documents of standard input as JSON,
`validate VERSION...` checks them as Kubernetes objects and prints every problem, a line each.

Built-in kinds are checked against the schemas of those Kubernetes versions, unknown fields refused;
KEDA's and the Prometheus operator's against models made from their published CRDs. These packages
are imported where they are used, as they take a second.
"""

import functools
import importlib
import json
import sys

import yaml

CRDS = {
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
}


def unknown_fields(given, read, path=""):
    """The fields of an object that its model does not know."""
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            if key in read:
                yield from unknown_fields(value, read[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}: unknown field"
    elif isinstance(given, list) and isinstance(read, list):
        for index, (one, other) in enumerate(zip(given, read)):
            yield from unknown_fields(one, other, f"{path}[{index}]")


def problems_with_model(item):
    model = getattr(importlib.import_module(CRDS[item["apiVersion"]]), item["kind"])
    try:
        read = model.model_validate(item)
    except ValueError as error:
        return [str(error)]
    return unknown_fields(item, read.model_dump(mode="json", by_alias=True, exclude_unset=True))


def problems_in_version(item, version):
    import kubernetes_validate

    try:
        kubernetes_validate.validate(item, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{version}: {error.message} at {'/'.join(map(str, error.path))}"


def problems(item, versions):
    if item["apiVersion"] in CRDS:
        yield from problems_with_model(item)
    else:
        for version in versions:
            yield from problems_in_version(item, version)


def cache_schemas():
    """Caches the schemas: reading them takes most of the time, and each object reads all of them."""
    import kubernetes_validate

    utils = kubernetes_validate.utils
    utils.schema_contents = functools.cache(utils.schema_contents)


def main(verb, *versions):
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    items = [item for item in yaml.load_all(sys.stdin, loader) if item is not None]
    if verb == "json":
        json.dump(items, sys.stdout)
        return
    cache_schemas()
    found = 0
    for item in items:
        for problem in problems(item, versions):
            print(f"{item['kind']} {item['metadata']['name']}: {problem}")
            found += 1
    sys.exit(min(found, 1))


main(*sys.argv[1:])
