{{- define "polyhook.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Leaves room for -receiver-headless and the revision hash of a StatefulSet. */}}
{{- define "polyhook.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "polyhook.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "polyhook.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "polyhook.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "polyhook.instanceLabels" -}}
app.kubernetes.io/name: {{ include "polyhook.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "polyhook.commonLabels" -}}
{{ include "polyhook.instanceLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The roles that have workloads, as JSON. */}}
{{- define "polyhook.roles" -}}
{{- if eq .Values.mode "single" -}}
["single"]
{{- else if .Values.console.enabled -}}
["receiver", "worker", "console"]
{{- else -}}
["receiver", "worker"]
{{- end -}}
{{- end -}}

{{/* The context of the following templates is (dict "root" $ "role" "receiver|worker|console|single"). */}}

{{- define "polyhook.selector" -}}
{{ include "polyhook.instanceLabels" .root }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{- define "polyhook.labels" -}}
{{ include "polyhook.commonLabels" .root }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{- define "polyhook.roleName" -}}
{{ include "polyhook.fullname" .root }}-{{ .role }}
{{- end -}}

{{- define "polyhook.serviceAccountName" -}}
{{- $account := (index .root.Values .role).serviceAccount -}}
{{- if $account.create -}}
{{ default (include "polyhook.roleName" .) $account.name }}
{{- else -}}
{{ default "default" $account.name }}
{{- end -}}
{{- end -}}

{{/* The role that receives deliveries. */}}
{{- define "polyhook.publicRole" -}}
{{ ternary "single" "receiver" (eq .Values.mode "single") }}
{{- end -}}

{{/* "true" if the pods of the role serve the console. */}}
{{- define "polyhook.hasConsole" -}}
{{- if and .root.Values.console.enabled (has .role (list "console" "single")) -}}true{{- end -}}
{{- end -}}

{{/* "true" if each pod of the role has its own volume. */}}
{{- define "polyhook.stateful" -}}
{{- if or (eq .role "single") (and (eq .role "receiver") .root.Values.receiver.spool.enabled) -}}true{{- end -}}
{{- end -}}

{{/* The public paths, as JSON: the endpoint, and the trigger if there is one. */}}
{{- define "polyhook.paths" -}}
{{- $paths := list -}}
{{- range compact (list (default "/polyai-events" .Values.config.server.path) (default "" .Values.config.trigger.path)) -}}
{{- $paths = append $paths (dict "path" .) -}}
{{- end -}}
{{- toJson $paths -}}
{{- end -}}
