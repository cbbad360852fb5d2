{{/*
Environment of a role: (root, role). A section that is named after another role is none of its business, and
neither are the gateway's sections, so a change of theirs does not restart it.
*/}}
{{- define "fanfare.environment" -}}
{{- $root := .root -}}
{{- $role := .role -}}
{{- $fullname := include "fanfare.fullname" $root -}}
{{- $others := without (list "gateway" "fanout" "presence") $role -}}
{{- if ne $role "gateway" }}{{ $others = concat $others (list "rooms" "cors" "app") }}{{ end -}}
{{- $isolated := dict "gateway.max_payload_bytes" true "gateway.recovery_seconds" true -}}
{{- range $section, $values := $root.Values.settings }}
{{- if kindIs "map" $values }}
{{- range $key, $value := $values }}
{{- if or (not (has $section $others)) (hasKey $isolated (printf "%s.%s" $section $key)) }}
- name: FANFARE_{{ upper $section }}__{{ upper $key }}
  value: {{ include "fanfare.text" $value | quote }}
{{- end }}
{{- end }}
{{- else }}
- name: {{ upper $section }}
  value: {{ include "fanfare.text" $values | quote }}
{{- end }}
{{- end }}
{{- if eq $role "gateway" }}
{{- if not (hasKey (default dict $root.Values.settings.gateway) "drain_seconds") }}
# The grace period is reckoned with it, so no file may say otherwise.
- name: FANFARE_GATEWAY__DRAIN_SECONDS
  value: {{ include "fanfare.drainSeconds" $root | quote }}
{{- end }}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: FANFARE_GATEWAY__ADVERTISE
  value: $(POD_IP):7001
{{- end }}
{{- if $root.Values.nats.builtIn.enabled }}
- name: NATS_URL
  value: nats://{{ $fullname }}-nats:4222
{{- end }}
{{- if $root.Values.redis.builtIn.enabled }}
- name: REDIS_URL
  value: redis://{{ $fullname }}-redis:6379
{{- end }}
{{- $gateway := list "JWT_SECRET" "FANFARE_AUTH__JWT_PREVIOUS_SECRET" "FANFARE_APP__WEBHOOK_SECRET" -}}
{{- $keys := ternary (keys $root.Values.secrets.values | sortAlpha) $root.Values.secrets.keys (not (empty $root.Values.secrets.values)) -}}
{{- range $keys }}
{{- if and (or (eq $role "gateway") (not (has . $gateway))) (not (and (eq . "NATS_URL") $root.Values.nats.builtIn.enabled)) (not (and (eq . "REDIS_URL") $root.Values.redis.builtIn.enabled)) }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ include "fanfare.secretName" $root }}
      key: {{ . }}
{{- end }}
{{- end }}
{{- if $root.Values.tls.enabled }}
- name: FANFARE_GRPC__TLS_CA
  value: /etc/fanfare/tls/ca.crt
- name: FANFARE_GRPC__TLS_CERT
  value: /etc/fanfare/tls/tls.crt
- name: FANFARE_GRPC__TLS_KEY
  value: /etc/fanfare/tls/tls.key
- name: FANFARE_GRPC__TLS_SERVER_NAME
  value: {{ $root.Values.tls.serverName }}
{{- end }}
{{- with $root.Values.tracing }}
{{- if .endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint }}
- name: OTEL_TRACES_SAMPLER
  value: {{ .sampler }}
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .samplerArg | quote }}
{{- end }}
{{- end }}
{{- with (get $root.Values $role).extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
