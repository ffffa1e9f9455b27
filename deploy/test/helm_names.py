"""Checks of deploy/test/helm on the names of the chart's values: the old ones, and what the new ones do."""

import json
import re
import tempfile
from pathlib import Path

import yaml

CHART = Path("deploy/helm/polyhook")
PROJECT = {"accountId": "acme-us", "projectId": "acme-front-desk", "apiKey": {"key": "k"}, "dataApiKey": {"key": "k"}}
# The values without which a renamed one has no effect.
SPLIT = {"projects": [PROJECT], "config.archive.url": "s3://calls", "existingSecret": "everything"}
BASES = {
    "single": {"mode": "single", "projects": [PROJECT], "existingSecret": "everything"},
    "worker.keda": SPLIT | {"worker.keda.enabled": True},
    "": SPLIT | {"config.trigger.path": "/trigger", "ingress.enabled": True},
}
# A value for each kind of renamed one. A number makes each different.
SAMPLES = {
    "replicaCount": lambda number: 10 + number,
    "size": lambda number: f"{10 + number}Gi",
    "extraEnv": lambda number: [{"name": f"SAMPLE_{number}", "value": "x"}],
    "extraEgress": lambda number: [{"ports": [{"port": 20000 + number, "protocol": "TCP"}]}],
}
OLD_INGRESS = {"ingress.host": "a.example", "ingress.tlsSecretName": "a-tls"}
NEW_INGRESS = {"ingress.hosts": [{"host": "a.example"}], "ingress.tls": [{"secretName": "a-tls", "hosts": ["a.example"]}]}
# Values of which an old and a new name differ.
CONFLICTS = [
    {"receiver.replicas": 3, "receiver.replicaCount": 2},
    {"secrets.webhook.name": "polyhook-webhook", "secrets.webhook.existingSecret": "b"},
    {"projects.0.apiKey.name": "a", "projects.0.apiKey.existingSecret": "b"},
    {"ingress.host": "b.example"} | NEW_INGRESS,
    {"ingress.tlsSecretName": "b-tls"} | NEW_INGRESS,
]
# Values of mode split, and the ports and namespaces to which they open each role's egress, besides DNS. Everything else stays closed.
EGRESS = [
    ({}, {"receiver": {5671, 5672}, "worker": {443, 5671, 5672}}),
    (
        {
            "networkPolicy.egress.brokerPorts": [],
            "config.archive.endpoint": "https://minio.example.com:9000",
            "config.tracing.endpoint": "http://otel-collector.observability:4318",
        },
        {"receiver": {4318, "observability"}, "worker": {443, 4318, 9000, "observability"}},
    ),
    (
        {
            "networkPolicy.egress.brokerPorts": [5699],
            "config.archive.endpoint": "http://10.1.2.3",
            "config.polyai.base_url": "https://polyai.example.com:8443",
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://user:pass@proxy:3128"}],
        },
        {"receiver": {3128, 5699}, "worker": {80, 443, 3128, 5699, 8443}},
    ),
    (
        {
            "config.archive.endpoint": "http://minio.storage.svc.cluster.local",
            "worker.extraEnv": [{"name": "POLYHOOK__QUEUE__URL", "value": "amqps://a:b@rabbit-1:5673/v,amqps://a:b@rabbit-2:5674/v"}],
        },
        {"receiver": {5671, 5672}, "worker": {80, 443, 5671, 5672, 5673, 5674, "storage"}},
    ),
]
# Keys for all pods, where they are in a pod, and a value for all and for workers.
MAPS = {
    "podLabels": "metadata.labels",
    "podAnnotations": "metadata.annotations",
    "nodeSelector": "spec.nodeSelector",
    "podSecurityContext": "spec.securityContext",
    "securityContext": "spec.containers.0.securityContext",
    "affinity": "spec.affinity",
}
LISTS = {
    "tolerations": "spec.tolerations",
    "topologySpreadConstraints": "spec.topologySpreadConstraints",
    "extraEnv": "spec.containers.0.env",
    "extraEnvFrom": "spec.containers.0.envFrom",
    "extraVolumes": "spec.volumes",
    "extraVolumeMounts": "spec.containers.0.volumeMounts",
}
ENTRIES = {
    "podSecurityContext": {"runAsUser": 1, "fsGroup": 1}, "securityContext": {"runAsUser": 1, "privileged": False},
    "affinity": {"nodeAffinity": {"x": 1}, "podAffinity": {"x": 1}},
}


def at(place, path):
    for key in path.split("."):
        place = place[int(key)] if key.isdigit() else place.get(key, {})
    return place


def values(*layers):
    """Returns nested values. Each layer is a map of dotted names; a number is an index."""
    every = {}
    for layer in layers:
        for path, value in json.loads(json.dumps(layer)).items():
            *parents, last = path.split(".")
            place = every
            for key in parents:
                place = place[int(key)] if key.isdigit() else place.setdefault(key, {})
            place[last] = value
    return every


def deprecated(schema, definitions, prefix=""):
    """Yields the names that the schema calls deprecated."""
    schema = definitions[schema["$ref"].split("/")[-1]] if "$ref" in schema else schema
    for name, inner in schema.get("properties", {}).items():
        if inner.get("deprecated"):
            yield f"{prefix}{name}"
        yield from deprecated(inner, definitions, f"{prefix}{name}.")
    if "items" in schema:
        yield from deprecated(schema["items"], definitions, f"{prefix}0.")


def renames():
    """Returns the new name of each old one, except the Ingress's, which are not one to one."""
    text = (CHART / "templates/_values.tpl").read_text()
    [block] = re.findall(r'define "polyhook.renames" -}}\n(.*?){{- end', text, re.S)
    return yaml.safe_load(block) | {f"projects.0.{key}.name": f"projects.0.{key}.existingSecret" for key in ("apiKey", "dataApiKey")}


def open_to(policy):
    """Returns the ports that are open to every address, and the namespaces that are open on every port."""
    rules = policy["spec"]["egress"]
    ports = {port["port"] for rule in rules if "to" not in rule for port in rule["ports"]}
    peers = [peer for rule in rules if "ports" not in rule for peer in rule["to"]]
    return ports | {peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in peers if "namespaceSelector" in peer}


def check_names(helm):
    """Returns the problems. `helm` runs a command."""
    problems = []

    def expect(right, what):
        if not right:
            problems.append(f"names: {what}")

    with tempfile.TemporaryDirectory(prefix="polyhook-helm-") as folder:
        def run(command, *layers):
            file = Path(folder, "values.yaml")
            file.write_text(yaml.safe_dump(values(*layers)))
            return helm(*command, "calls", CHART, "--namespace", "polyhook", "-f", file)

        def render(*layers):
            done = run(["template"], *layers)
            expect(done.returncode == 0, f"helm template of {layers}: {done.stderr}")
            return [document for document in yaml.safe_load_all(done.stdout) if document]

        check_old(expect, run, render)
        check_common(expect, render)
        for change, wanted in EGRESS:
            policies = [one for one in render(SPLIT, change) if one["kind"] == "NetworkPolicy"]
            found = {one["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]: open_to(one) for one in policies}
            wanted = {role: {53, 5353} | others for role, others in wanted.items()}
            expect(found == wanted, f"with {change} the egress is {found}, not {wanted}")
    return problems


def check_common(expect, render):
    """A key for all pods reaches all; under a role it overrides single keys of a map, null removes one, and a list grows."""
    entries = {key: ENTRIES.get(key, {"a": "all", "b": "all"}) for key in MAPS}
    every = entries | {key: [{"name": "all"}] for key in LISTS} | {"priorityClassName": "all", "replicaCount": 5}
    worker = {f"worker.{key}": dict.fromkeys(list(entry)[:1]) for key, entry in entries.items()}
    worker |= {f"worker.{key}": [{"name": "own"}] for key in LISTS} | {"worker.priorityClassName": "own", "worker.replicaCount": 6}
    objects = [{"kind": "A", "metadata": {"name": "{{ .Release.Name }}-a"}}, "kind: B\nmetadata: { name: '{{ .Release.Name }}-b' }"]
    shown = {f"{one['kind']}/{one['metadata']['name']}": one for one in render(SPLIT, every, worker, {"extraObjects": objects})}
    expect("A/calls-a" in shown and "B/calls-b" in shown, "extraObjects are not there")
    receiver, work = (shown.get(f"{name}", {}).get("spec", {}) for name in ("StatefulSet/calls-polyhook-receiver", "Deployment/calls-polyhook-worker"))
    expect((receiver.get("replicas"), work.get("replicas")) == (5, 6), "replicaCount is not that of the role, or of all")
    for key, path in MAPS.items():
        one, other = list(entries[key])
        expect(entries[key].items() <= at(receiver["template"], path).items(), f"{key} does not reach receivers")
        found = at(work["template"], path)
        expect(one not in found and other in found, f"worker.{key} does not remove {one} and keep {other}")
    for key, path in LISTS.items():
        for pod, wanted in ((receiver, ["all"]), (work, ["all", "own"])):
            found = [entry.get("name") for entry in at(pod["template"], path) if entry.get("name") in ("all", "own")]
            expect(found == wanted, f"{key} is {found}, not {wanted}")
    expect((at(receiver, "template.spec.priorityClassName"), at(work, "template.spec.priorityClassName")) == ("all", "own"), "priorityClassName")


def check_old(expect, run, render):
    """Each old name renders as the new one does, with a warning; if both have different values, that is an error."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = renames()
    different = set(deprecated(schema, schema["definitions"])) ^ (set(known) | set(OLD_INGRESS))
    expect(not different, f"values.schema.json and _values.tpl disagree about the old names {different}")
    place = {old: next(base for base in BASES if old.startswith(base)) for old in known}
    for base, needed in BASES.items():
        old = {one: SAMPLES.get(new.split(".")[-1], "sample-{}".format)(number)
               for number, (one, new) in enumerate(known.items()) if place[one] == base or one.startswith("projects")}
        new = {known[one]: value for one, value in old.items()}
        if base == "":
            old, new = old | OLD_INGRESS, new | NEW_INGRESS
        shown = render(needed, new)
        expect(render(needed, old) == shown, f"the old names {list(old)} render otherwise than the new ones")
        text = json.dumps(shown)
        for name, value in new.items():
            if name not in NEW_INGRESS:
                leaf = json.dumps(value if not isinstance(value, list) else value[0].get("name") or value[0]["ports"])
                expect(leaf in text or f': {json.loads(leaf)},' in text, f"{name} has no effect")
        notes = run(["install", "--dry-run=client"], needed, old).stdout
        for name in old:
            shown_name = name.replace("projects.0", "projects[0]")
            expect(re.search(rf"^ +{re.escape(shown_name)} -> ", notes, re.M), f"NOTES.txt does not warn about {shown_name}")
    for change in CONFLICTS:
        done = run(["template"], SPLIT, {"ingress.enabled": True}, NEW_INGRESS, change)
        expect("have different values" in done.stderr, f"{change} is not refused: {done.stderr}")
