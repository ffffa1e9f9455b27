{{/*
The egress rules of a role. A policy applies to the addresses and ports of pods, and a Service may have another port than its pods.
So a name inside the cluster opens its namespace, too.
*/}}
{{- define "polyhook.egress" -}}
{{- $values := .root.Values -}}
{{- $ports := dict }}{{ $namespaces := dict -}}
{{- if ne .role "single" }}{{ range $values.networkPolicy.egress.brokerPorts }}{{ $_ := set $ports (toString .) true }}{{ end }}{{ end -}}
{{- if ne .role "receiver" }}{{ $_ := set $ports "443" true }}{{ end -}}
{{- $text := cat (include "polyhook.config" .) (include "polyhook.joined" (dict "root" .root "role" .role "key" "extraEnv")) -}}
{{- $default := dict "http" "80" "https" "443" "amqp" "5672" "amqps" "5671" "socks5" "1080" "socks5h" "1080" -}}
{{- range regexFindAll "\\b(https?|amqps?|socks5h?)://[^\\s/?#\"',]+" $text -1 -}}
{{- $scheme := regexFind "^\\w+" . }}{{ $host := regexReplaceAll "^.*(//|@)" . "" -}}
{{- $port := regexFind ":\\d+$" $host | trimPrefix ":" -}}
{{- $_ := set $ports (default (get $default $scheme) $port) true -}}
{{- $name := regexReplaceAll ":\\d+$" $host "" -}}
{{- if regexMatch "^[a-z][a-z0-9-]*\\.[a-z0-9-]+(\\.svc(\\..+)?)?\\.?$" $name }}{{ $_ := set $namespaces (index (splitList "." $name) 1) true }}{{ end -}}
{{- end -}}
# DNS. The pods of OpenShift's DNS listen on 5353.
- ports: [{ port: 53, protocol: UDP }, { port: 53, protocol: TCP }, { port: 5353, protocol: UDP }, { port: 5353, protocol: TCP }]
# The own namespace, and those that URLs name.
- to:
    - podSelector: {}
    {{- range keys $namespaces | sortAlpha }}
    - namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: {{ . }} } }
    {{- end }}
{{- if $ports }}
- ports:
    {{- range keys $ports | sortAlpha }}
    - { port: {{ . }}, protocol: TCP }
    {{- end }}
{{- end }}
{{- $archive := default "file:" $values.config.archive.url -}}
{{- if not (or (eq .role "receiver") (hasPrefix "file:" $archive) $values.secrets.archiveKey.existingSecret $values.secrets.archiveServiceAccount.existingSecret) }}
# The identity services of AWS, Google and Azure, and of EKS and GKE, for an archive without a key.
- to: [{ ipBlock: { cidr: 169.254.169.254/32 } }, { ipBlock: { cidr: 169.254.170.23/32 } }, { ipBlock: { cidr: "fd00:ec2::23/128" } }]
  ports: [{ port: 80, protocol: TCP }]
- to: [{ ipBlock: { cidr: 169.254.169.252/32 } }]
  ports: [{ port: 988, protocol: TCP }]
{{- end }}
{{- end -}}
