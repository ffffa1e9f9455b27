{{/*
Old names of values, which are still accepted. A new name has no default in values.yaml, so that the chart sees whether it is set.
deploy/test/helm compares this list with the names that values.schema.json calls deprecated.
*/}}
{{- define "polyhook.renames" -}}
receiver.replicas: receiver.replicaCount
receiver.env: receiver.extraEnv
receiver.spool.storageClassName: receiver.spool.storageClass
worker.replicas: worker.replicaCount
worker.env: worker.extraEnv
worker.keda.auth.name: worker.keda.auth.existingSecret
single.env: single.extraEnv
single.storage.storageClassName: single.persistence.storageClass
single.storage.size: single.persistence.size
secrets.webhook.name: secrets.webhook.existingSecret
secrets.trigger.name: secrets.trigger.existingSecret
secrets.amqp.receiver.name: secrets.amqp.receiver.existingSecret
secrets.amqp.worker.name: secrets.amqp.worker.existingSecret
secrets.amqp.operator.name: secrets.amqp.operator.existingSecret
secrets.amqpCa.name: secrets.amqpCa.existingSecret
secrets.amqpClient.name: secrets.amqpClient.existingSecret
secrets.archiveKey.name: secrets.archiveKey.existingSecret
secrets.archiveServiceAccount.name: secrets.archiveServiceAccount.existingSecret
networkPolicy.egress.rules: networkPolicy.extraEgress
{{- end -}}

{{/*
Prepares .Values once. Every template starts with it, so it does not matter which one Helm renders first. Moves old names to new ones
(.Values.renamed lists them for NOTES.txt), and fills in the defaults that depend on other values.
*/}}
{{- define "polyhook.prepare" -}}
{{- if not (hasKey .Values "renamed") -}}
{{- $values := .Values -}}
{{- if not (and (hasKey $values "httpRoute") (hasKey $values "console")) -}}
{{- fail "the values lack the defaults of this version: upgrade with --reset-then-reuse-values instead of --reuse-values" -}}
{{- end -}}
{{- $_ := set $values "renamed" list -}}
{{- range $old, $new := include "polyhook.renames" . | fromYaml -}}
{{- include "polyhook.rename" (dict "values" $values "root" $values "old" $old "new" $new "label" "") -}}
{{- end -}}
{{- include "polyhook.renameIngress" $values -}}
{{- range $index, $project := $values.projects -}}
{{- range $key := list "apiKey" "dataApiKey" -}}
{{- if hasKey $project $key -}}
{{- $label := printf "projects[%d].%s." $index $key -}}
{{- include "polyhook.rename" (dict "values" (get $project $key) "root" $values "old" "name" "new" "existingSecret" "label" $label) -}}
{{- end -}}
{{- end -}}
{{- if not (or $project.apiKey.existingSecret $values.existingSecret) -}}
{{- fail (printf "projects[%d].apiKey.existingSecret is not set: name the Secret with the API key of %s" $index $project.projectId) -}}
{{- end -}}
{{- $_ := set $project.apiKey "existingSecret" (default $values.existingSecret $project.apiKey.existingSecret) -}}
{{- end -}}
{{- range $place, $name := dict "webhook" "polyhook-webhook" "amqp.console" "polyhook-amqp-console" "amqp.receiver" "polyhook-amqp-receiver" "amqp.worker" "polyhook-amqp-worker" -}}
{{- $secret := $values.secrets }}{{ range splitList "." $place }}{{ $secret = get $secret . }}{{ end -}}
{{- $_ := set $secret "existingSecret" (coalesce $secret.existingSecret $values.existingSecret $name) -}}
{{- end -}}
{{- $_ := set $values.worker.keda.auth "existingSecret" (default "polyhook-amqp-keda" $values.worker.keda.auth.existingSecret) -}}
{{- end -}}
{{- end -}}

{{/* Moves a value. The context is (dict "values" MAP "root" .Values "old" "a.b" "new" "c.d" "label" "path of the map."). */}}
{{- define "polyhook.rename" -}}
{{- $old := splitList "." .old -}}
{{- $from := .values }}{{ range initial $old }}{{ $from = default dict (get $from .) }}{{ end -}}
{{- with get $from (last $old) -}}
{{- $_ := unset $from (last $old) -}}
{{- $new := splitList "." $.new -}}
{{- $to := $.values }}{{ range initial $new }}{{ $to = get $to . }}{{ end -}}
{{- $now := get $to (last $new) -}}
{{- if and $now (ne (toJson $now) (toJson .)) -}}
{{- fail (printf "%[1]s%[2]s and %[1]s%[3]s have different values: remove %[1]s%[2]s, the old name of %[1]s%[3]s" $.label $.old $.new) -}}
{{- end -}}
{{- $_ := set $to (last $new) . -}}
{{- $_ := set $.root "renamed" (append $.root.renamed (printf "%[1]s%[2]s -> %[1]s%[3]s" $.label $.old $.new)) -}}
{{- end -}}
{{- end -}}

{{/* ingress.host was one host, and ingress.tlsSecretName the Secret for it. The context is .Values. */}}
{{- define "polyhook.renameIngress" -}}
{{- $ingress := .ingress -}}
{{- with $ingress.host -}}
{{- $_ := set $ "renamed" (append $.renamed "ingress.host -> ingress.hosts") -}}
{{- if and $ingress.hosts (ne (list . | toJson) (include "polyhook.hosts" $ingress)) -}}
{{- fail "ingress.host and ingress.hosts have different values: remove ingress.host, the old name of ingress.hosts" -}}
{{- end -}}
{{- $_ := set $ingress "hosts" (default (list (dict "host" .)) $ingress.hosts) -}}
{{- end -}}
{{- with $ingress.tlsSecretName -}}
{{- $_ := set $ "renamed" (append $.renamed "ingress.tlsSecretName -> ingress.tls") -}}
{{- $tls := list (dict "secretName" . "hosts" (include "polyhook.hosts" $ingress | fromJsonArray)) -}}
{{- if and $ingress.tls (ne (toJson $tls) (toJson $ingress.tls)) -}}
{{- fail "ingress.tlsSecretName and ingress.tls have different values: remove ingress.tlsSecretName, the old name of ingress.tls" -}}
{{- end -}}
{{- $_ := set $ingress "tls" $tls -}}
{{- end -}}
{{- end -}}

{{/* The host names of ingress.hosts, as JSON. */}}
{{- define "polyhook.hosts" -}}
{{- $names := list }}{{ range .hosts }}{{ $names = append $names .host }}{{ end -}}
{{- toJson $names -}}
{{- end -}}
