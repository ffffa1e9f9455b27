{{/*
The polyhook.toml of a role. A string, number, boolean or list of strings in JSON is valid TOML.
Sections that a role does not use are left out: a role restarts only when its own configuration changes, and every secret
file that the configuration names must exist.
*/}}
{{- define "polyhook.config" -}}
{{- $values := .root.Values -}}
{{- $secrets := $values.secrets -}}
{{- $role := .role -}}
{{- $receives := has $role (list "receiver" "single") -}}
{{- $works := has $role (list "worker" "single") -}}
{{- $config := deepCopy $values.config -}}
{{- $use := list "queue" "retry" "log" "tracing" -}}
{{- if $receives }}{{ $use = concat $use (list "server" "signature" "trigger") }}{{ end -}}
{{- if $works }}{{ $use = concat $use (list "polyai" "worker" "refresh" "archive" "reconcile" "index") }}{{ end -}}
{{- if eq $role "console" }}{{ $use = concat $use (list "refresh" "archive" "index") }}{{ end -}}
{{- if include "polyhook.hasConsole" . }}{{ $use = append $use "console" }}{{ end -}}
{{- if and (eq $role "receiver") $values.receiver.spool.enabled }}{{ $use = append $use "spool" }}{{ end -}}
{{- $own := dict -}}
{{- if ne $role "console" }}{{ $_ := set $own "admin" (dict "listen" (printf "%s:9090" $values.listenAddress)) }}{{ end -}}
{{- if eq $role "single" -}}
{{- $_ := set $own "queue" (dict "url" "sqlite:/var/lib/polyhook/queue.db") -}}
{{- if not $config.archive.url }}{{ $_ := set $config.archive "url" "file:/var/lib/polyhook/archive" }}{{ end -}}
{{- else -}}
{{- $queue := dict "url_file" "/etc/polyhook/amqp/url" -}}
{{- if $secrets.amqpCa.existingSecret }}{{ $_ := set $queue "ca_file" "/etc/polyhook/amqp-ca/ca.pem" }}{{ end -}}
{{- if $secrets.amqpClient.existingSecret -}}
{{- $_ := set $queue "client_cert_file" "/etc/polyhook/amqp-client/client.pem" -}}
{{- $_ := set $queue "client_key_file" "/etc/polyhook/amqp-client/client.key" -}}
{{- end -}}
{{- $_ := set $own "queue" $queue -}}
{{- end -}}
{{- if $receives -}}
{{- $_ := set $own "server" (dict "listen" (printf "%s:8080" $values.listenAddress)) -}}
{{- $_ := set $own "signature" (dict "secrets_file" "/etc/polyhook/webhook/secrets") -}}
{{- if and $config.trigger.path (not $secrets.trigger.existingSecret) }}{{ fail "secrets.trigger.existingSecret is not set: config.trigger.path needs a token" }}{{ end -}}
{{- if $secrets.trigger.existingSecret }}{{ $_ := set $own "trigger" (dict "token_file" "/etc/polyhook/trigger/tokens") }}{{ end -}}
{{- end -}}
{{- if and (eq $role "receiver") $values.receiver.spool.enabled -}}
{{- $_ := set $own "spool" (dict "path" "/var/lib/polyhook/spool.db") -}}
{{- end -}}
{{- if include "polyhook.hasConsole" . -}}
{{- $console := dict "enabled" true "listen" (printf "%s:8090" $values.listenAddress) -}}
{{- if $secrets.console.existingSecret }}{{ $_ := set $console "token_file" "/etc/polyhook/console/console-tokens" }}{{ end -}}
{{- $hasProxy := and $config.console.trusted_proxies $config.console.user_header -}}
{{- if not (or $secrets.console.existingSecret $hasProxy) }}{{ fail "secrets.console.existingSecret is not set: the console needs a token, or config.console.trusted_proxies and user_header" }}{{ end -}}
{{- $_ := set $own "console" $console -}}
{{- end -}}
{{- if or $works (eq $role "console") -}}
{{- $archive := dict -}}
{{- if $secrets.archiveKey.existingSecret }}{{ $_ := set $archive "secret_access_key_file" "/etc/polyhook/archive-key/key" }}{{ end -}}
{{- if $secrets.archiveServiceAccount.existingSecret }}{{ $_ := set $archive "service_account_file" "/etc/polyhook/archive-account/account.json" }}{{ end -}}
{{- $_ := set $own "archive" $archive -}}
{{- if and (eq (default "" $config.index.numbers) "hash") (not $secrets.numbersKey.existingSecret) }}{{ fail "secrets.numbersKey.existingSecret is not set: config.index.numbers hash needs a key" }}{{ end -}}
{{- if $secrets.numbersKey.existingSecret }}{{ $_ := set $own "index" (dict "numbers_key_file" "/etc/polyhook/numbers-key/key") }}{{ end -}}
{{- end -}}
{{- $all := pick $own "admin" -}}
{{- range $use }}{{ $_ := set $all . (mergeOverwrite (default dict (index $config .)) (default dict (index $own .))) }}{{ end -}}
{{- range $section := keys $all | sortAlpha }}
{{- with index $all $section }}
[{{ $section }}]
{{- range $key := keys . | sortAlpha }}
{{ $key }} = {{ index $all $section $key | toJson }}
{{- end }}
{{ end }}
{{- end }}
{{- if $works }}
{{- range $index, $project := $values.projects }}
[[projects]]
account_id = {{ $project.accountId | toJson }}
project_id = {{ $project.projectId | toJson }}
api_key_file = "/etc/polyhook/project-{{ $index }}/api-key"
{{- with $project.dataApiKey }}{{ if .existingSecret }}
data_api_key_file = "/etc/polyhook/project-{{ $index }}-data/api-key"
{{- end }}{{ end }}
{{- with $project.region }}
region = {{ toJson . }}
{{- end }}
{{- with $project.api }}
api = {{ toJson . }}
{{- end }}
{{ end }}
{{- end }}
{{- end -}}
