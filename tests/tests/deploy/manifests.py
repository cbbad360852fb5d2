"""Holds rendered manifests against the schemas of Kubernetes and tells them as JSON.

Usage: manifests.py VERSION... < rendered.yaml. Every object of Kubernetes itself must fit the schema of each VERSION,
unknown fields refused. Prints {"objects": […], "mistakes": […]}; custom resources are crds.mjs' business.
Without a VERSION: only YAML to JSON.
"""

import json
import sys

import kubernetes_validate
import yaml


class Loader(yaml.CSafeLoader):
    """Refuses what Kubernetes refuses: the same key twice."""


def mapping(loader, node):
    keys = [key.value for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"keys twice: {twice}", node.start_mark)
    return loader.construct_mapping(node, deep=True)


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)

OWN = ("", "apps", "autoscaling", "batch", "policy")


def is_own(document):
    """Whether its schema comes with Kubernetes."""
    group = document["apiVersion"].rpartition("/")[0]
    return group in OWN or group in ("networking.k8s.io", "rbac.authorization.k8s.io")


def main():
    documents = [document for document in yaml.load_all(sys.stdin, Loader) if document]
    mistakes = []
    for version in sys.argv[1:]:
        for document in documents:
            if not is_own(document):
                continue
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                name = f"{document['kind']} {document['metadata']['name']}"
                mistakes.append(f"{version}: {name}: {'.'.join(map(str, error.path))}: {error.message}")
    json.dump({"objects": documents, "mistakes": mistakes}, sys.stdout)


main()
