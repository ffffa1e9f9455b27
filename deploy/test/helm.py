"""The checks of deploy/test/helm, which describes them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import helm_parameters
import kubernetes_validate
import yaml
from helm_names import check_names

HELM, POLYHOOK = (str(Path(argument).absolute()) for argument in sys.argv[1:3])
CHART = Path("deploy/helm/polyhook")
# The oldest version that the chart supports, and the newest with published schemas.
VERSIONS = ("1.30", "1.37")
COMMANDS = {"receiver": "receive", "worker": "work", "console": "console", "single": "run"}
# Manifests that are not of the chart.
EXAMPLES = [Path("deploy/helm/oauth2-proxy.yaml")]
# The minimum that a custom resource must contain; its operator owns the full schema.
CUSTOM = {
    "ServiceMonitor": ("monitoring.coreos.com/v1", ["selector", "endpoints"]),
    "PrometheusRule": ("monitoring.coreos.com/v1", ["groups"]),
    "ScaledObject": ("keda.sh/v1alpha1", ["scaleTargetRef", "triggers"]),
    "TriggerAuthentication": ("keda.sh/v1alpha1", ["secretTargetRef"]),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", ["parentRefs", "rules"]),
}
# Keys that the chart sets itself, and secrets, which are never in values.
MANAGED = {
    "server": {"listen"},
    "signature": {"secrets", "secrets_file"},
    "trigger": {"token", "token_file"},
    "queue": {"url", "url_file", "ca_file", "client_cert_file", "client_key_file"},
    "spool": {"path"},
    "archive": {"secret_access_key", "secret_access_key_file", "service_account_file"},
    "index": {"numbers_key", "numbers_key_file"},
    "console": {"enabled", "listen", "token", "token_file"},
}
# Invalid values for --set, and a word of the expected error.
REFUSED = [
    ("reciever.replicaCount=3", "reciever"),
    ("receiver.replica=3", "replica"),
    ("receiver.replicaCount=0", "minimum"),
    ("receiver.replicas=0", "minimum"),
    ("podSecurityContext.runAsUsr=1", "runAsUsr"),
    ("mode=single,replicaCount=2", "replicaCount"),
    ("config.server.ackbudget=4s", "ackbudget"),
    ("config.server.listen=0.0.0.0:1", "listen"),
    ("config.signature.secrets={a}", "secrets"),
    ("config.worker.concurrency=many", "concurrency"),
    ("config.tracing.sampleratio=1", "sampleratio"),
    ("worker.keda.minReplicas=0", "minReplicas"),
    ("worker.terminationGracePeriodSeconds=5", "terminationGracePeriodSeconds"),
    ("secrets.webhook.name=", "webhook"),
    ("projects[0].apiKey.existingSecret=", "projects[0].apiKey.existingSecret"),
    ("config.trigger.path=/trigger", "secrets.trigger"),
    ("config.index.numbers=hash", "secrets.numbersKey"),
    ("config.index.numbers=masked", "numbers"),
    ("console.enabled=true", "secrets.console"),
    ("console.enabled=true,config.console.user_header=X-User", "secrets.console"),
    ("config.console.token=hunter2-hunter2-hunter2", "token"),
    ("config.console.allow_replay=maybe", "allow_replay"),
    ("console.replicaCount=2", "replicaCount"),
    ("image.digest=latest", "digest"),
    ("projects=null", "projects is empty"),
    ("ingress.tlsSecretName=,ingress.enabled=true,ingress.host=a.example", "ingress.tlsSecretName"),
    ("ingress.enabled=true,ingress.hosts[0].host=a.example", "ingress.tls"),
    ("ingress.enabled=true,ingress.tls[0].secretName=a", "ingress.hosts"),
    ("ingress.enabled=true,ingress.hosts[0].host=a.example,ingress.tls[0].hosts={b.example}", "no entry for a.example"),
    ("httpRoute.enabled=true", "httpRoute.parentRefs"),
    # As after an upgrade with --reuse-values.
    ("httpRoute=null", "--reset-then-reuse-values"),
    ("mode=split,config.archive.url=file:/archive", "no volume holds"),
]

problems = []


def problem(where, what):
    problems.append(f"{where}: {what}")


def helm(*arguments):
    return subprocess.run([HELM, *map(str, arguments)], capture_output=True, text=True)


def render(values, *more):
    done = helm("template", "calls", CHART, "--namespace", "polyhook", "-f", values, *more)
    if done.returncode:
        problem(values.name, f"helm template: {done.stderr}")
        return []
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def names(documents):
    return [f"{document['kind']}/{document['metadata']['name']}" for document in documents]


def check_schema(where, document):
    kind = document["kind"]
    if kind in CUSTOM:
        version, keys = CUSTOM[kind]
        if document["apiVersion"] != version:
            problem(where, f"apiVersion is {document['apiVersion']}, not {version}")
        for key in keys:
            if not document["spec"].get(key):
                problem(where, f"spec.{key} is missing or empty")
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            problem(where, f"Kubernetes {version}: {error.message} at {'.'.join(map(str, error.path))}")


def pod_of(document):
    if document["kind"] == "Pod":
        return document
    if document["kind"] in ("Deployment", "StatefulSet"):
        return document["spec"]["template"]
    return None


def check_pod(where, pod, openshift):
    """Checks the Pod Security Standard `restricted`, and what the image needs. OpenShift assigns the users itself."""
    spec = pod["spec"]

    def expect(found, wanted, what):
        if found != wanted:
            problem(where, f"{what} is {found!r}, not {wanted!r}")

    context = spec.get("securityContext", {})
    expect(context.get("runAsNonRoot"), True, "runAsNonRoot")
    for key in ("runAsUser", "runAsGroup", "fsGroup"):
        expect(context.get(key), None if openshift else 65532, key)
    expect(context.get("seccompProfile"), {"type": "RuntimeDefault"}, "seccompProfile")
    expect(spec.get("automountServiceAccountToken"), False, "automountServiceAccountToken")
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        expect(spec.get(key, False), False, key)
    for volume in spec["volumes"]:
        if not set(volume) - {"name"} <= {"configMap", "secret", "emptyDir", "projected", "persistentVolumeClaim", "csi", "downwardAPI"}:
            problem(where, f"a volume of a forbidden type: {volume}")
    for container in spec["containers"] + spec.get("initContainers", []):
        own = container.get("securityContext", {})
        expect(own.get("allowPrivilegeEscalation"), False, "allowPrivilegeEscalation")
        expect(own.get("readOnlyRootFilesystem"), True, "readOnlyRootFilesystem")
        expect(own.get("capabilities"), {"drop": ["ALL"]}, "capabilities")
        expect(own.get("privileged", False), False, "privileged")
        expect(own.get("runAsUser"), None, "the container's runAsUser")
        expect("command" in container, False, "a command, which would replace the entrypoint,")
        if not container["resources"].get("limits", {}).get("memory"):
            problem(where, "no memory limit")
        for port in container.get("ports", []):
            if "hostPort" in port:
                problem(where, f"a host port: {port}")
        for mount in container["volumeMounts"]:
            if "subPath" in mount:
                problem(where, f"a subPath, which Kubernetes never updates: {mount}")
        is_console = [port["name"] for port in container.get("ports", [])] == ["console"]
        for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            if "ports" in container:
                wanted = {"path": "/livez", "port": "console"} if is_console else {"path": path, "port": "admin"}
                expect(container[probe]["httpGet"], wanted, probe)
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if "ports" in container and spec["terminationGracePeriodSeconds"] < sleep + 12:
            problem(where, "terminationGracePeriodSeconds is shorter than the sleep plus the drain of 10 s")


def selects(selector, pod):
    return selector.items() <= pod["metadata"]["labels"].items()


def check_network(name, documents):
    """Checks that only deliveries are public, and that every Service selects its pods."""
    pods = [pod for document in documents if document["kind"] != "Pod" and (pod := pod_of(document))]
    services = {document["metadata"]["name"]: document["spec"] for document in documents if document["kind"] == "Service"}
    for service, spec in services.items():
        where = f"{name}: Service/{service}"
        found = [pod for pod in pods if selects(spec["selector"], pod)]
        if len(found) != 1:
            problem(where, f"selects {len(found)} workloads, not one")
            continue
        ports = {port["name"]: port["containerPort"] for port in found[0]["spec"]["containers"][0]["ports"]}
        targets = [ports.get(port["targetPort"]) for port in spec["ports"]]
        wanted = [9090] if spec.get("clusterIP") == "None" else [8090] if service.endswith("-console") else [8080]
        if targets != wanted:
            problem(where, f"leads to {targets}, not {wanted}")
    public = [service for service, spec in services.items() if spec.get("clusterIP") != "None" and not service.endswith("-console")]
    if len(public) != 1:
        problem(name, f"the public Services are {public}, not one")
    policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
    if len(policies) != len(pods):
        problem(name, f"{len(policies)} network policies for {len(pods)} workloads")
    for document in documents:
        where = f"{name}: {document['kind']}/{document['metadata']['name']}"
        if document["kind"] == "Ingress":
            if not document["spec"].get("tls"):
                problem(where, "no TLS")
            for rule in document["spec"]["rules"]:
                for path in rule["http"]["paths"]:
                    backend = path["backend"]["service"]
                    if backend["name"] not in public or backend["port"] != {"name": "http"}:
                        problem(where, f"leads to {backend}")
        elif document["kind"] == "HTTPRoute":
            [rule] = document["spec"]["rules"]
            for backend in rule["backendRefs"]:
                if backend["name"] not in public or backend["port"] != 80:
                    problem(where, f"leads to {backend}")
            for match in rule["matches"]:
                if match["path"] not in ({"type": "Exact", "value": "/polyai-events"}, {"type": "Exact", "value": "/polyai-trigger"}):
                    problem(where, f"exposes {match}")
        elif document["kind"] == "NetworkPolicy":
            for rule in document["spec"]["ingress"]:
                peers = json.dumps(rule.get("from") or [])
                for port in rule["ports"]:
                    if port["port"] in ("admin", "console") and ("ingress-nginx" in peers or not rule.get("from")):
                        problem(where, f"allows {peers} to connect to {port}")
        elif document["kind"] == "StatefulSet" and services.get(document["spec"]["serviceName"], {}).get("clusterIP") != "None":
            problem(where, "its serviceName is not a headless Service")
        if document["kind"] in ("PodDisruptionBudget", "NetworkPolicy"):
            selector = document["spec"].get("selector", document["spec"].get("podSelector"))["matchLabels"]
            if len([pod for pod in pods if selects(selector, pod)]) != 1:
                problem(where, "does not select one workload")
        target = document.get("spec", {}).get("scaleTargetRef") if isinstance(document.get("spec"), dict) else None
        if target:
            kind = target.get("kind", "Deployment")
            scaled = [one for one in documents if (one["kind"], one["metadata"]["name"]) == (kind, target["name"])]
            if len(scaled) != 1:
                problem(where, f"scales {target}, which does not exist")
            elif "replicas" in scaled[0]["spec"]:
                problem(where, "scales a workload with a fixed number of replicas, which every upgrade would reset")


SAMPLES = {
    "url": "amqps://polyhook:password@rabbit-1:5671/polyhook\namqps://polyhook:password@rabbit-2:5671/polyhook\n",
    "secrets": "whsec_0123456789abcdef\n",
    "console-tokens": "sample-of-a-console-token\n",
    "ca.pem": Path(__file__).with_name("ca.pem").read_text(),
    "account.json": "{}",
}


def client_certificate():
    """Returns a certificate and its key: `polyhook config check` reads both."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "certificate"), Path(folder, "key")
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=polyhook"]
        command = ["openssl", "req", "-x509", *kind, "-keyout", key, "-out", certificate]
        subprocess.run(command, check=True, capture_output=True)
        return {"client.pem": certificate.read_text(), "client.key": key.read_text()}


SAMPLES |= client_certificate()


def check_config(name, documents):
    """Runs `polyhook config check` on the configuration of each pod, with its mounts as folders."""
    maps = {document["metadata"]["name"]: document.get("data") for document in documents if document["kind"] == "ConfigMap"}
    for document in documents:
        pod = pod_of(document)
        if not pod:
            continue
        where = f"{name}: {document['kind']}/{document['metadata']['name']}"
        [container] = pod["spec"]["containers"]
        if "ports" in container:
            role = COMMANDS[pod["metadata"]["labels"]["app.kubernetes.io/component"]]
            if container["args"] != [role]:
                problem(where, f"runs {container['args']}")
        else:
            role = container["args"][-1]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        with tempfile.TemporaryDirectory(prefix="polyhook-helm-") as folder:
            root = Path(folder)
            root.chmod(0o755)
            for volume in pod["spec"]["volumes"]:
                at = root / mounts[volume["name"]].lstrip("/")
                at.mkdir(parents=True)
                if volume["name"] == "config":
                    for file, text in maps[volume["configMap"]["name"]].items():
                        (at / file).write_text(re.sub("/(etc|var/lib)/polyhook/", rf"{root}/\1/polyhook/", text))
                elif "secret" in volume:
                    for item in volume["secret"]["items"]:
                        (at / item["path"]).write_text(SAMPLES.get(item["path"], "sample-of-a-secret-file\n"))
            env = {key: value for key, value in os.environ.items() if not key.startswith(("POLYHOOK", "POLYAI", "AWS_"))}
            # The ports of the pod may be in use on this machine.
            listeners = ["SERVER", "ADMIN", "CONSOLE"]
            env |= {f"POLYHOOK__{one}__LISTEN": "0.0.0.0:0" if one == "CONSOLE" else "127.0.0.1:0" for one in listeners}
            for variable in container["env"]:
                env[variable["name"]] = variable.get("value", "sample").replace("/etc/polyhook/", f"{root}/etc/polyhook/")
            data = root / "var/lib/polyhook"
            data.mkdir(parents=True, exist_ok=True)
            config = [POLYHOOK, "config", "check", "--role", role]
            done = subprocess.run(config, env=env, capture_output=True, text=True)
            # 1: the configuration is valid, but not on this machine, which has other folders and ports in use.
            if done.returncode not in (0, 1):
                problem(where, f"polyhook config check: {done.stdout}{done.stderr}")
            if role == "run":
                check_random_user(where, root, env)
            toml = next((root / "etc/polyhook/config").iterdir()).read_text()
            for path in [line.split('"')[1] for line in toml.splitlines() if f'"{root}/etc/' in line]:
                if not Path(path).is_file():
                    problem(where, f"{path.removeprefix(folder)} is configured, but not mounted")
            if "password" in toml or "whsec_" in toml:
                problem(where, "a ConfigMap contains a secret")


def check_random_user(where, root, env):
    """Runs `polyhook run` as OpenShift does: a random user of group 0 without a home, whose volumes belong to another group."""
    program = shutil.copy(POLYHOOK, root / "polyhook")
    data, secrets = root / "var/lib/polyhook", [path for path in (root / "etc").rglob("*") if path.is_file()]
    user = {}
    if os.geteuid() == 0:
        user = {"user": 1000680000, "group": 0, "extra_groups": [1000680001]}
        data.chmod(0o2775)
        for path in [data, *secrets]:
            os.chown(path, 0, 1000680001)
        for path in secrets:
            path.chmod(0o440)
    env = {key: value for key, value in env.items() if key not in ("HOME", "USER")}
    env |= {"POLYHOOK__RECONCILE__EVERY": "0s"}
    with subprocess.Popen([program, "run"], env=env, cwd=data, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **user) as run:
        lines, limit = [], threading.Timer(60, run.kill)
        limit.start()
        for line in run.stdout:
            lines.append(line)
            if "receiving deliveries" in line:
                run.terminate()
        limit.cancel()
        if run.wait() or not (data / "queue.db").is_file():
            problem(where, f"polyhook run as a random user: exit code {run.returncode}: {''.join(lines)}")


def check_rollout(values):
    """Checks that a changed configuration restarts the pods of its role, and only these."""
    def sums(*more):
        return {document["metadata"]["name"]: pod_of(document)["metadata"]["annotations"]["checksum/config"]
                for document in render(values, *more) if document["kind"] in ("Deployment", "StatefulSet")}
    before, worker, log = sums(), sums("--set", "config.worker.concurrency=99"), sums("--set", "config.log.level=debug")
    changed = {name for name in before if before[name] != worker[name]}
    if len(changed) != 1 or not next(iter(changed)).endswith(("-worker", "-single")):
        problem(values.name, f"config.worker changes the pods of {changed}")
    if any(before[name] == log[name] for name in before):
        problem(values.name, "config.log does not change all pods")


def check_refusals(values):
    def attempt(case):
        setting, word = case
        done = helm("template", "calls", CHART, "-f", values, "--set", setting)
        if not done.returncode:
            problem("values", f"--set {setting} is not refused")
        elif word not in done.stderr:
            problem("values", f"--set {setting} is refused for another reason: {done.stderr}")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(attempt, REFUSED))


def check_keys():
    """Checks that `config` in values accepts exactly the keys of polyhook that the chart does not set itself."""
    ours = json.loads((CHART / "values.schema.json").read_text())["properties"]["config"]["properties"]
    theirs = json.loads(subprocess.run([POLYHOOK, "config", "schema"], capture_output=True, text=True, check=True).stdout)
    for section, schema in theirs["properties"].items():
        if section in ("admin", "projects"):
            continue
        reference = schema.get("$ref") or schema["allOf"][0]["$ref"]
        wanted = set(theirs["$defs"][reference.split("/")[-1]]["properties"]) - MANAGED.get(section, set())
        found = set(ours.get(section, {}).get("properties", {}))
        if found != wanted:
            problem("values.schema.json", f"config.{section}: missing {sorted(wanted - found)}, too many {sorted(found - wanted)}")
    if extra := set(ours) - set(theirs["properties"]):
        problem("values.schema.json", f"config: too many {sorted(extra)}")


def main():
    started = time.monotonic()
    files = sorted((CHART / "ci").glob("*-values.yaml"))
    if len(files) < 3:
        sys.exit(f"helm: {CHART}/ci has {len(files)} values files")
    for values in files:
        done = helm("lint", "--strict", CHART, "-f", values)
        if done.returncode:
            problem(values.name, f"helm lint: {done.stdout}{done.stderr}")
        documents = render(values)
        if len(set(names(documents))) != len(documents):
            problem(values.name, f"an object is defined twice: {sorted(names(documents))}")
        for document, what in zip(documents, names(documents)):
            where = f"{values.name}: {what}"
            check_schema(where, document)
            if pod := pod_of(document):
                check_pod(where, pod, values.name.startswith("openshift-"))
        check_network(values.name, documents)
        check_config(values.name, documents)
        check_rollout(values)
        print(f"{values.name}: {len(documents)} objects")
    check_refusals(next(values for values in files if values.name.startswith("own-")))
    for example in EXAMPLES:
        for document in yaml.safe_load_all(example.read_text()):
            check_schema(f"{example.name}: {document['kind']}", document)
    check_keys()
    problems.extend(check_names(helm))
    text, wanted, bare = helm_parameters.readme()
    if text != wanted:
        problem("deploy/helm/README.md", "the table of values is not that of values.yaml: run deploy/test/helm --write")
    problems.extend(f"values.yaml: {path} has no comment" for path in bare)
    if problems:
        sys.exit("\n".join(["helm: problems:", *problems]))
    print(f"{len(REFUSED)} invalid values refused; took {time.monotonic() - started:.0f} s")


main()
