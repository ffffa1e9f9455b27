{{/* The volumes of a role's secrets. Mounted as folders, never with subPath: Kubernetes updates only folders. */}}
{{- define "polyhook.secretVolumes" -}}
{{- $secrets := .root.Values.secrets -}}
{{- $role := .role -}}
{{- $mode := include "polyhook.secretMode" . -}}
{{- if ne $role "single" }}
{{- $amqp := .amqp | default (index $secrets.amqp $role) }}
- name: amqp
  secret: { secretName: {{ $amqp.existingSecret | quote }}, defaultMode: {{ $mode }}, items: [{ key: {{ $amqp.key | quote }}, path: url }] }
{{- with $secrets.amqpCa }}{{ if .existingSecret }}
- name: amqp-ca
  secret: { secretName: {{ .existingSecret | quote }}, defaultMode: {{ $mode }}, items: [{ key: {{ .key | quote }}, path: ca.pem }] }
{{- end }}{{ end }}
{{- with $secrets.amqpClient }}{{ if .existingSecret }}
- name: amqp-client
  secret:
    secretName: {{ .existingSecret | quote }}
    defaultMode: {{ $mode }}
    items: [{ key: {{ .certKey | quote }}, path: client.pem }, { key: {{ .keyKey | quote }}, path: client.key }]
{{- end }}{{ end }}
{{- end }}
{{- if include "polyhook.hasConsole" . }}
{{- with $secrets.console }}{{ if .existingSecret }}
- name: console
  secret: { secretName: {{ .existingSecret | quote }}, defaultMode: {{ $mode }}, items: [{ key: {{ .key | quote }}, path: console-tokens }] }
{{- end }}{{ end }}
{{- end }}
{{- if has $role (list "receiver" "single") }}
- name: webhook
  secret: { secretName: {{ $secrets.webhook.existingSecret | quote }}, defaultMode: {{ $mode }}, items: [{ key: {{ $secrets.webhook.key | quote }}, path: secrets }] }
{{- with $secrets.trigger }}{{ if .existingSecret }}
- name: trigger
  secret: { secretName: {{ .existingSecret | quote }}, defaultMode: {{ $mode }}, items: [{ key: {{ .key | quote }}, path: tokens }] }
{{- end }}{{ end }}
{{- end }}
{{- if ne $role "receiver" }}
{{- with $secrets.archiveKey }}{{ if .existingSecret }}
- name: archive-key
  secret: { secretName: {{ .existingSecret | quote }}, defaultMode: {{ $mode }}, items: [{ key: {{ .key | quote }}, path: key }] }
{{- end }}{{ end }}
{{- with $secrets.numbersKey }}{{ if .existingSecret }}
- name: numbers-key
  secret: { secretName: {{ .existingSecret | quote }}, defaultMode: {{ $mode }}, items: [{ key: {{ .key | quote }}, path: key }] }
{{- end }}{{ end }}
{{- with $secrets.archiveServiceAccount }}{{ if .existingSecret }}
- name: archive-account
  secret: { secretName: {{ .existingSecret | quote }}, defaultMode: {{ $mode }}, items: [{ key: {{ .key | quote }}, path: account.json }] }
{{- end }}{{ end }}
{{- if ne $role "console" }}
{{- range $index, $project := .root.Values.projects }}
- name: project-{{ $index }}
  secret: { secretName: {{ $project.apiKey.existingSecret | quote }}, defaultMode: {{ $mode }}, items: [{ key: {{ $project.apiKey.key | quote }}, path: api-key }] }
{{- with $project.dataApiKey }}{{ if .existingSecret }}
- name: project-{{ $index }}-data
  secret: { secretName: {{ .existingSecret | quote }}, defaultMode: {{ $mode }}, items: [{ key: {{ .key | quote }}, path: api-key }] }
{{- end }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A map for all roles with the keys of one role over it; null removes a key. The context also has "key", the name in values. */}}
{{- define "polyhook.merged" -}}
{{- $all := deepCopy (default dict (get .root.Values .key)) -}}
{{- range $key, $value := default dict (get (get .root.Values .role) .key) -}}
{{- if kindIs "invalid" $value }}{{ $_ := unset $all $key }}{{ else }}{{ $_ := set $all $key $value }}{{ end -}}
{{- end -}}
{{- range $key, $value := $all }}{{ if kindIs "invalid" $value }}{{ $_ := unset $all $key }}{{ end }}{{ end -}}
{{- if $all }}{{ toYaml $all }}{{ end -}}
{{- end -}}

{{/* A list for all roles, then the one of a role. */}}
{{- define "polyhook.joined" -}}
{{- $all := concat (default list (get .root.Values .key)) (default list (get (get .root.Values .role) .key)) -}}
{{- if $all }}{{ toYaml $all }}{{ end -}}
{{- end -}}

{{/* "true" if the user ids are OpenShift's to assign. */}}
{{- define "polyhook.openshift" -}}
{{- $adapt := dig "compatibility" "openshift" "adaptSecurityContext" "auto" (default dict .Values.global) -}}
{{- if or (eq $adapt "force") (and (eq $adapt "auto") (.Capabilities.APIVersions.Has "security.openshift.io/v1")) -}}true{{- end -}}
{{- end -}}

{{- define "polyhook.podSecurityContext" -}}
{{- $context := include "polyhook.merged" (dict "root" .root "role" .role "key" "podSecurityContext") | fromYaml -}}
{{- if include "polyhook.openshift" .root }}{{ $context = omit $context "runAsUser" "runAsGroup" "fsGroup" }}{{ end -}}
{{- if $context }}{{ toYaml $context }}{{ end -}}
{{- end -}}

{{- define "polyhook.securityContext" -}}
{{- $context := include "polyhook.merged" (dict "root" .root "role" .role "key" "securityContext") | fromYaml -}}
{{- if include "polyhook.openshift" .root }}{{ $context = omit $context "runAsUser" "runAsGroup" }}{{ end -}}
{{- if $context }}{{ toYaml $context }}{{ end -}}
{{- end -}}

{{/* Secrets belong to root and the pod's fsGroup, which OpenShift assigns. Without such a group all users of the pod may read them. */}}
{{- define "polyhook.secretMode" -}}
{{- $context := include "polyhook.podSecurityContext" . | fromYaml -}}
{{- if or $context.fsGroup (include "polyhook.openshift" .root) -}}0440{{- else -}}0444{{- end -}}
{{- end -}}

{{/* The part of a pod's spec that the pod of `helm test` has, too. */}}
{{- define "polyhook.podSpec" -}}
{{- $of := dict "root" .root "role" .role -}}
serviceAccountName: {{ include "polyhook.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with include "polyhook.podSecurityContext" . }}
securityContext:
  {{- . | nindent 2 }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with default .root.Values.priorityClassName (get .root.Values .role).priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- range $key, $template := dict "nodeSelector" "merged" "affinity" "merged" "tolerations" "joined" }}
{{- with include (printf "polyhook.%s" $template) (set $of "key" $key) }}
{{ $key }}:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The volumes of a pod, except the ones of volumeClaimTemplates. */}}
{{- define "polyhook.volumes" -}}
- name: config
  configMap: { name: {{ include "polyhook.roleName" . }} }
{{ include "polyhook.secretVolumes" . | fromYamlArray | toYaml }}
{{- with include "polyhook.joined" (dict "root" .root "role" .role "key" "extraVolumes") }}
{{ . }}
{{- end }}
{{- end -}}

{{/* The part of a container that the one of `helm test` has, too. */}}
{{- define "polyhook.container" -}}
{{- $of := dict "root" .root "role" .role -}}
name: polyhook
image: {{ include "polyhook.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
env:
  - name: POLYHOOK_CONFIG
    value: /etc/polyhook/config/polyhook.toml
  {{- with include "polyhook.joined" (set $of "key" "extraEnv") }}
  {{- . | nindent 2 }}
  {{- end }}
{{- with include "polyhook.joined" (set $of "key" "extraEnvFrom") }}
envFrom:
  {{- . | nindent 2 }}
{{- end }}
{{- with include "polyhook.securityContext" . }}
securityContext:
  {{- . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml (get .root.Values .role).resources | nindent 2 }}
volumeMounts:
  - { name: config, mountPath: /etc/polyhook/config, readOnly: true }
  {{- range include "polyhook.secretVolumes" . | fromYamlArray }}
  - { name: {{ .name }}, mountPath: /etc/polyhook/{{ .name }}, readOnly: true }
  {{- end }}
  {{- with include "polyhook.joined" (set $of "key" "extraVolumeMounts") }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* The metadata and spec of a pod. */}}
{{- define "polyhook.pod" -}}
{{- $of := dict "root" .root "role" .role -}}
{{- $values := get .root.Values .role -}}
{{- $public := has .role (list "receiver" "single") -}}
{{- $admin := ternary "console" "admin" (eq .role "console") -}}
metadata:
  annotations:
    # A changed configuration restarts the pods. A changed Secret does not: polyhook reads it again.
    checksum/config: {{ include "polyhook.config" . | sha256sum }}
    {{- with include "polyhook.merged" (set $of "key" "podAnnotations") }}
    {{- . | nindent 4 }}
    {{- end }}
  labels:
    {{- with include "polyhook.merged" (set $of "key" "podLabels") }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- include "polyhook.labels" . | nindent 4 }}
spec:
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  {{- include "polyhook.podSpec" . | nindent 2 }}
  {{- $constraints := include "polyhook.joined" (set $of "key" "topologySpreadConstraints") }}
  {{- if $constraints }}
  topologySpreadConstraints:
    {{- $constraints | nindent 4 }}
  {{- else if ne .role "single" }}
  topologySpreadConstraints:
    {{- range $topology := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ $topology }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "polyhook.selector" $ | nindent 10 }}
    {{- end }}
  {{- end }}
  containers:
    -
      {{- include "polyhook.container" . | nindent 6 }}
        {{- if include "polyhook.stateful" . }}
        - { name: data, mountPath: /var/lib/polyhook }
        {{- end }}
      args: [{{ get (dict "receiver" "receive" "worker" "work" "console" "console" "single" "run") .role }}]
      ports:
        {{- if $public }}
        - { name: http, containerPort: 8080, protocol: TCP }
        {{- end }}
        {{- if ne .role "console" }}
        - { name: admin, containerPort: 9090, protocol: TCP }
        {{- end }}
        {{- if include "polyhook.hasConsole" . }}
        - { name: console, containerPort: 8090, protocol: TCP }
        {{- end }}
      # After a crash polyhook first recovers a spool or queue, which may be large.
      startupProbe:
        httpGet: { path: /livez, port: {{ $admin }} }
        periodSeconds: 2
        failureThreshold: 150
      # Fails when polyhook cannot make deliveries durable. Answers within 2 s.
      readinessProbe:
        httpGet: { path: {{ ternary "/livez" "/readyz" (eq .role "console") }}, port: {{ $admin }} }
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 2
      # Checks only the process: a restart does not repair the broker.
      livenessProbe:
        httpGet: { path: /livez, port: {{ $admin }} }
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      {{- if $public }}
      lifecycle:
        preStop:
          sleep: { seconds: {{ $values.preStopSleepSeconds }} }
      {{- end }}
  volumes:
    {{- include "polyhook.volumes" . | nindent 4 }}
{{- end -}}
