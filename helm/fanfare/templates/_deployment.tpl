{{/* A role's Deployment: (root, role). */}}
{{- define "fanfare.deployment" -}}
{{- $root := .root -}}
{{- $role := .role -}}
{{- $values := get $root.Values $role -}}
{{- $ports := get (include "fanfare.ports" $root | fromYaml) $role -}}
{{- $of := dict "root" $root "part" $role -}}
{{- $isGateway := eq $role "gateway" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "fanfare.metadata" $of | nindent 2 }}
spec:
  {{- if not (and $isGateway (ne $root.Values.gateway.autoscaling.type "none")) }}
  replicas: {{ $values.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  {{- if $isGateway }}
  minReadySeconds: {{ $values.minReadySeconds }}
  {{- end }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      # Nobody goes before somebody new is ready.
      maxUnavailable: 0
      maxSurge: {{ if $isGateway }}{{ $values.maxSurge }}{{ else }}1{{ end }}
  selector:
    matchLabels:
      {{- include "fanfare.selector" $of | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "fanfare.labels" $of | nindent 8 }}
        {{- with $values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        kubectl.kubernetes.io/default-container: fanfare
        {{- if $root.Values.configFile }}
        checksum/config: {{ sha256sum $root.Values.configFile }}
        {{- end }}
        {{- if $root.Values.secrets.values }}
        checksum/secret: {{ sha256sum (toJson $root.Values.secrets.values) }}
        {{- end }}
        {{- with $values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "fanfare.fullname" $root }}-{{ $role }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with $root.Values.image.pullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      securityContext:
        {{- include "fanfare.podSecurityContext" $root | nindent 8 }}
        {{- if $isGateway }}
        {{- with $values.sysctls }}
        sysctls:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- end }}
      terminationGracePeriodSeconds: {{ include "fanfare.grace" . }}
      {{- if $isGateway }}
      {{- with $values.readinessGates }}
      readinessGates:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- end }}
      topologySpreadConstraints:
        {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
        - maxSkew: 1
          topologyKey: {{ $key }}
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "fanfare.selector" $of | nindent 14 }}
          matchLabelKeys: [pod-template-hash]
        {{- end }}
      {{- with $values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: fanfare
          image: {{ include "fanfare.image" $root }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args:
            - {{ $role }}
            {{- if or $root.Values.configFile $root.Values.configSecret }}
            - --config=/etc/fanfare/fanfare.toml
            {{- end }}
          env:
            {{- include "fanfare.environment" (dict "root" $root "role" $role) | trim | nindent 12 }}
          ports:
            {{- range $name, $port := $ports }}
            - name: {{ $name }}
              containerPort: {{ $port }}
              protocol: TCP
            {{- end }}
          # The process is up; what it waits for (NATS, Redis) is readiness' business.
          startupProbe:
            httpGet: {path: /livez, port: admin}
            periodSeconds: 1
            failureThreshold: 60
          # A NATS that changes its leader must not take every pod out of the load balancer.
          readinessProbe:
            httpGet: {path: /readyz, port: admin}
            periodSeconds: 5
            timeoutSeconds: 3
            failureThreshold: 4
          # A restart costs every connection of the pod, so only what is surely stuck gets one.
          livenessProbe:
            httpGet: {path: /livez, port: admin}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          {{- with $values.preStopSeconds }}
          # Endpoints and load balancers forget the pod, which serves on; then comes SIGTERM.
          lifecycle:
            preStop:
              sleep:
                seconds: {{ . }}
          {{- end }}
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          securityContext:
            {{- include "fanfare.securityContext" $root | nindent 12 }}
          {{- $mounts := include "fanfare.mounts" (dict "root" $root "role" $role) | trim }}
          {{- if $mounts }}
          volumeMounts:
            {{- $mounts | nindent 12 }}
          {{- end }}
        {{- if and $isGateway $values.podDeletionCost.enabled }}
        {{- include "fanfare.deletionCostContainer" $root | nindent 8 }}
        {{- end }}
      {{- $volumes := include "fanfare.volumes" (dict "root" $root "role" $role) | trim }}
      {{- if $volumes }}
      volumes:
        {{- $volumes | nindent 8 }}
      {{- end }}
{{- end -}}

{{- define "fanfare.mounts" -}}
{{- if or .root.Values.configFile .root.Values.configSecret }}
- name: config
  mountPath: /etc/fanfare/fanfare.toml
  subPath: fanfare.toml
  readOnly: true
{{- end }}
{{- if .root.Values.tls.enabled }}
- name: tls
  mountPath: /etc/fanfare/tls
  readOnly: true
{{- end }}
{{- with (get .root.Values .role).extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "fanfare.volumes" -}}
{{- if .root.Values.configSecret }}
- name: config
  secret:
    secretName: {{ .root.Values.configSecret }}
    defaultMode: 0440
{{- else if .root.Values.configFile }}
- name: config
  configMap:
    name: {{ include "fanfare.fullname" .root }}
{{- end }}
{{- if .root.Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "fanfare.tlsSecret" (dict "root" .root "part" .role) }}
    defaultMode: 0440
{{- end }}
{{- if and (eq .role "gateway") .root.Values.gateway.podDeletionCost.enabled }}
- name: kubernetes
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
{{- end }}
{{- with (get .root.Values .role).extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Writes each pod's connections to its annotation controller.kubernetes.io/pod-deletion-cost. */}}
{{- define "fanfare.deletionCostContainer" -}}
- name: deletion-cost
  image: {{ include "fanfare.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  # Told where the gateway listens, it reads no settings, which are the gateway's.
  args:
    - gateway
    - deletion-cost
    - --every={{ .Values.gateway.podDeletionCost.periodSeconds }}s
    - --admin=127.0.0.1:{{ (include "fanfare.ports" . | fromYaml).gateway.admin }}
  env:
    - name: POD_NAME
      valueFrom:
        fieldRef:
          fieldPath: metadata.name
    - name: POD_NAMESPACE
      valueFrom:
        fieldRef:
          fieldPath: metadata.namespace
  resources:
    requests: {cpu: 5m, memory: 16Mi}
    limits: {memory: 64Mi}
  securityContext:
    {{- include "fanfare.securityContext" . | nindent 4 }}
  volumeMounts:
    - name: kubernetes
      mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      readOnly: true
{{- end -}}
