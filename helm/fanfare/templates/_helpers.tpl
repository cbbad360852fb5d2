{{- define "fanfare.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of a part: (root, part). Never changes, since selectors of Deployments cannot. */}}
{{- define "fanfare.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "fanfare.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{ include "fanfare.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: fanfare
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "fanfare.metadata" -}}
name: {{ include "fanfare.fullname" .root }}-{{ .part }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "fanfare.labels" . | nindent 2 }}
{{- end -}}

{{- define "fanfare.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default .Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{/* Ports by role (CONTRACT, section 2). */}}
{{- define "fanfare.ports" -}}
gateway: {http: 3001, internal: 7001, admin: 9091}
fanout: {grpc: 7002, http: 7003, admin: 9092}
presence: {grpc: 7004, admin: 9093}
{{- end -}}

{{/* A value as the text of an environment variable: numbers from values files are floats. */}}
{{- define "fanfare.text" -}}
{{- if kindIs "float64" . -}}
{{- if eq . (floor .) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else if kindIs "slice" . -}}
{{- join "," . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* A setting of the gateway or its default: (root, key, default). */}}
{{- define "fanfare.gatewaySetting" -}}
{{- $gateway := default dict .root.Values.settings.gateway -}}
{{- include "fanfare.text" (ternary (get $gateway .key) .default (hasKey $gateway .key)) -}}
{{- end -}}

{{- define "fanfare.drainSeconds" -}}
{{- include "fanfare.gatewaySetting" (dict "root" . "key" "drain_seconds" "default" 20) -}}
{{- end -}}

{{/* A role's time to end, (root, role): serving on, a gateway's drain, then closing and handing over. */}}
{{- define "fanfare.grace" -}}
{{- $values := get .root.Values .role -}}
{{- $drain := ternary (int (include "fanfare.drainSeconds" .root)) 0 (eq .role "gateway") -}}
{{- add (int $values.preStopSeconds) $drain (int $values.shutdownSeconds) -}}
{{- end -}}

{{- define "fanfare.secretName" -}}
{{- if .Values.secrets.values -}}
{{ include "fanfare.fullname" . }}
{{- else -}}
{{ required "secrets.existingSecret: the name of the Secret" .Values.secrets.existingSecret }}
{{- end -}}
{{- end -}}

{{- define "fanfare.tlsSecret" -}}
{{- default (printf "%s-%s-tls" (include "fanfare.fullname" .root) .part) (get .root.Values.tls.existingSecrets .part) -}}
{{- end -}}

{{- define "fanfare.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "fanfare.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What does not fit together, said before Kubernetes is asked. */}}
{{- define "fanfare.check" -}}
{{- $ping := int (include "fanfare.gatewaySetting" (dict "root" . "key" "ping_interval_ms" "default" 25000)) -}}
{{- $timeout := int (include "fanfare.gatewaySetting" (dict "root" . "key" "ping_timeout_ms" "default" 20000)) -}}
{{- if le (mul 1000 (int .Values.ingress.idleTimeoutSeconds)) (add $ping $timeout) -}}
{{- fail "ingress.idleTimeoutSeconds must be more than gateway.ping_interval_ms and ping_timeout_ms together, or quiet clients are cut" -}}
{{- end -}}
{{- if gt (int .Values.gateway.autoscaling.min) (int .Values.gateway.autoscaling.max) -}}
{{- fail "gateway.autoscaling.min is more than max" -}}
{{- end -}}
{{- if and (eq .Values.ingress.preset "gateway-api") (not .Values.ingress.gatewayApi.parentRefs) -}}
{{- fail "ingress.gatewayApi.parentRefs: a route needs a Gateway" -}}
{{- end -}}
{{- range .Values.gateway.extraEnv -}}
{{- if eq .name "FANFARE_GATEWAY__DRAIN_SECONDS" -}}
{{- fail "gateway.extraEnv: the grace period must hold the drain; set settings.gateway.drain_seconds" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.secrets.external.enabled (or .Values.secrets.values (not .Values.secrets.external.storeRef.name) (not .Values.secrets.external.remoteKey)) -}}
{{- fail "secrets.external needs storeRef.name and remoteKey, and no secrets.values" -}}
{{- end -}}
{{- if and .Values.ingress.alb.presence.enabled (not .Values.ingress.alb.certificateArns) -}}
{{- fail "ingress.alb.presence: an ALB speaks gRPC over TLS alone; set ingress.alb.certificateArns" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (eq .Values.ingress.preset "alb") .Values.ingress.alb.presence.enabled (not .Values.networkPolicy.clients) (not .Values.networkPolicy.applications) -}}
{{- fail "ingress.alb.presence: an ALB is no pod of this namespace; name its subnets in networkPolicy.clients or applications, or its calls are dropped" -}}
{{- end -}}
{{- end -}}
