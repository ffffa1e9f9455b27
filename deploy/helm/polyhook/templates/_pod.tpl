{{/* The volumes of a role's secrets. Mounted as folders, never with subPath: Kubernetes updates only folders. */}}
{{- define "polyhook.secretVolumes" -}}
{{- $secrets := .root.Values.secrets -}}
{{- $role := .role -}}
{{- if ne $role "single" }}
{{- $amqp := .amqp | default (index $secrets.amqp $role) }}
- name: amqp
  secret: { secretName: {{ $amqp.name | quote }}, defaultMode: 0440, items: [{ key: {{ $amqp.key | quote }}, path: url }] }
{{- with $secrets.amqpCa }}{{ if .name }}
- name: amqp-ca
  secret: { secretName: {{ .name | quote }}, defaultMode: 0440, items: [{ key: {{ .key | quote }}, path: ca.pem }] }
{{- end }}{{ end }}
{{- with $secrets.amqpClient }}{{ if .name }}
- name: amqp-client
  secret:
    secretName: {{ .name | quote }}
    defaultMode: 0440
    items: [{ key: {{ .certKey | quote }}, path: client.pem }, { key: {{ .keyKey | quote }}, path: client.key }]
{{- end }}{{ end }}
{{- end }}
{{- if ne $role "worker" }}
- name: webhook
  secret: { secretName: {{ $secrets.webhook.name | quote }}, defaultMode: 0440, items: [{ key: {{ $secrets.webhook.key | quote }}, path: secrets }] }
{{- with $secrets.trigger }}{{ if .name }}
- name: trigger
  secret: { secretName: {{ .name | quote }}, defaultMode: 0440, items: [{ key: {{ .key | quote }}, path: tokens }] }
{{- end }}{{ end }}
{{- end }}
{{- if ne $role "receiver" }}
{{- with $secrets.archiveKey }}{{ if .name }}
- name: archive-key
  secret: { secretName: {{ .name | quote }}, defaultMode: 0440, items: [{ key: {{ .key | quote }}, path: key }] }
{{- end }}{{ end }}
{{- with $secrets.archiveServiceAccount }}{{ if .name }}
- name: archive-account
  secret: { secretName: {{ .name | quote }}, defaultMode: 0440, items: [{ key: {{ .key | quote }}, path: account.json }] }
{{- end }}{{ end }}
{{- range $index, $project := .root.Values.projects }}
- name: project-{{ $index }}
  secret: { secretName: {{ $project.apiKey.name | quote }}, defaultMode: 0440, items: [{ key: {{ $project.apiKey.key | quote }}, path: api-key }] }
{{- with $project.dataApiKey }}{{ if .name }}
- name: project-{{ $index }}-data
  secret: { secretName: {{ .name | quote }}, defaultMode: 0440, items: [{ key: {{ .key | quote }}, path: api-key }] }
{{- end }}{{ end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "polyhook.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
# Changes the owner only once, because a spool may be large.
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "polyhook.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* The metadata and spec of a pod. */}}
{{- define "polyhook.pod" -}}
{{- $root := .root -}}
{{- $role := .role -}}
{{- $values := index $root.Values $role -}}
{{- $secretVolumes := include "polyhook.secretVolumes" . | fromYamlArray -}}
{{- $public := ne $role "worker" -}}
metadata:
  annotations:
    # A changed configuration restarts the pods. A changed Secret does not: polyhook reads it again.
    checksum/config: {{ include "polyhook.config" . | sha256sum }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- include "polyhook.labels" . | nindent 4 }}
spec:
  serviceAccountName: {{ include "polyhook.serviceAccountName" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  securityContext:
    {{- include "polyhook.podSecurityContext" . | nindent 4 }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml $values.topologySpreadConstraints | nindent 4 }}
  {{- else if ne $role "single" }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "polyhook.selector" (dict "root" $root "role" $role) | nindent 10 }}
    {{- end }}
  {{- end }}
  containers:
    - name: polyhook
      image: {{ include "polyhook.image" $root | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [{{ get (dict "receiver" "receive" "worker" "work" "single" "run") $role }}]
      env:
        - name: POLYHOOK_CONFIG
          value: /etc/polyhook/config/polyhook.toml
        {{- with $values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- if $public }}
        - { name: http, containerPort: 8080, protocol: TCP }
        {{- end }}
        - { name: admin, containerPort: 9090, protocol: TCP }
      # After a crash polyhook first recovers a spool or queue, which may be large.
      startupProbe:
        httpGet: { path: /livez, port: admin }
        periodSeconds: 2
        failureThreshold: 150
      # Fails when polyhook cannot make deliveries durable. Answers within 2 s.
      readinessProbe:
        httpGet: { path: /readyz, port: admin }
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 2
      # Checks only the process: a restart does not repair the broker.
      livenessProbe:
        httpGet: { path: /livez, port: admin }
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      {{- if $public }}
      lifecycle:
        preStop:
          sleep: { seconds: {{ $values.preStopSleepSeconds }} }
      {{- end }}
      securityContext:
        {{- include "polyhook.containerSecurityContext" . | nindent 8 }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      volumeMounts:
        {{- include "polyhook.mounts" (dict "secretVolumes" $secretVolumes) | nindent 8 }}
        {{- if include "polyhook.stateful" . }}
        - { name: data, mountPath: /var/lib/polyhook }
        {{- end }}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: { name: {{ include "polyhook.roleName" . }} }
    {{- toYaml $secretVolumes | nindent 4 }}
    {{- with $values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "polyhook.mounts" -}}
- { name: config, mountPath: /etc/polyhook/config, readOnly: true }
{{- range .secretVolumes }}
- { name: {{ .name }}, mountPath: /etc/polyhook/{{ .name }}, readOnly: true }
{{- end }}
{{- end -}}
