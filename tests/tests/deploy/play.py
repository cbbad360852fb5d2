"""Makes of the rendered chart what `podman play kube` can run on one machine's own network.

Usage: play.py < rendered.yaml > pods.yaml. What podman has no part of goes (Services, policies, …), a StatefulSet becomes
a Deployment, and each role gets a second instance on other ports, since all share one address. Names of Services
become that address, keys of Secrets values. Ports go, which podman would map, and probes: it would ask with curl, which
is not in the image.
"""

import copy
import sys

import yaml

KINDS = ("ConfigMap", "Deployment", "StatefulSet")
# Ports of the second instance, as settings.
SECOND = {
    "gateway": {
        "WEBSOCKET_PORT": "3002",
        "FANFARE_GATEWAY__GRPC_LISTEN": "0.0.0.0:7101",
        "FANFARE_GATEWAY__ADVERTISE": "127.0.0.1:7101",
        "FANFARE_ADMIN__LISTEN": "0.0.0.0:9191",
    },
    "fanout": {
        "FANFARE_FANOUT__GRPC_LISTEN": "0.0.0.0:7102",
        "FANFARE_FANOUT__HTTP_LISTEN": "0.0.0.0:7103",
        "FANFARE_ADMIN__LISTEN": "0.0.0.0:9192",
    },
    "presence": {"FANFARE_PRESENCE__GRPC_LISTEN": "0.0.0.0:7104", "FANFARE_ADMIN__LISTEN": "0.0.0.0:9193"},
}


def set_variables(container, variables):
    kept = [one for one in container["env"] if one["name"] not in variables]
    container["env"] = kept + [{"name": name, "value": value} for name, value in variables.items()]


def localized(document, hosts, secrets):
    document["kind"] = "Deployment"
    document["spec"] = {key: document["spec"][key] for key in ("selector", "template")}
    document["spec"]["replicas"] = 1
    pod = document["spec"]["template"]["spec"]
    pod["hostNetwork"] = True
    pod.pop("topologySpreadConstraints", None)
    for container in pod["containers"]:
        for probe in ("ports", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle"):
            container.pop(probe, None)
        container["env"] = [one for one in container.get("env", []) if one["name"] != "POD_IP"]
        for one in container["env"]:
            if "valueFrom" in one:
                reference = one.pop("valueFrom")["secretKeyRef"]
                one["value"] = secrets[reference["name"]][reference["key"]]
            for host in ["$(POD_IP)", *hosts]:
                one["value"] = one["value"].replace(host, "127.0.0.1")
    return document


def main():
    documents = [document for document in yaml.safe_load_all(sys.stdin) if document]
    hosts = [document["metadata"]["name"] for document in documents if document["kind"] == "Service"]
    secrets = {
        document["metadata"]["name"]: document["stringData"] for document in documents if document["kind"] == "Secret"
    }
    made = []
    for document in documents:
        if document["kind"] not in KINDS:
            continue
        if "template" not in document.get("spec", {}):
            made.append(document)
            continue
        made.append(localized(document, hosts, secrets))
        role = document["metadata"]["labels"]["app.kubernetes.io/component"]
        if role in SECOND:
            second = copy.deepcopy(document)
            second["metadata"]["name"] += "-second"
            set_variables(second["spec"]["template"]["spec"]["containers"][0], SECOND[role])
            made.append(second)
    yaml.safe_dump_all(made, sys.stdout)


main()
