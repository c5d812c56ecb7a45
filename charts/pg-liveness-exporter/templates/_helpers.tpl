{{- define "pg-liveness-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of most objects. A StatefulSet adds a number, and names of pods have at most 63 characters. */}}
{{- define "pg-liveness-exporter.fullname" -}}
{{- $name := include "pg-liveness-exporter.name" . -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The name of the Service. With shards it is headless, and has another name: Kubernetes cannot make an existing Service headless. */}}
{{- define "pg-liveness-exporter.service" -}}
{{ include "pg-liveness-exporter.fullname" . }}{{ if gt (int .Values.shards) 1 }}-shards{{ end }}
{{- end }}

{{/* nameOverride does not count here: Kubernetes cannot change a selector. */}}
{{- define "pg-liveness-exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "pg-liveness-exporter.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "pg-liveness-exporter.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "pg-liveness-exporter.image" -}}
{{- $repository := required "image.repository is required: there is no published image. Build one (make tarballs image), push it, and name it." .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "pg-liveness-exporter.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "pg-liveness-exporter.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The Secret with the file, or nothing. */}}
{{- define "pg-liveness-exporter.configSecret" -}}
{{- if .Values.existingConfig.secret -}}
{{- if .Values.config }}{{ fail "set config or existingConfig.secret, not both" }}{{ end -}}
{{ .Values.existingConfig.secret }}
{{- else if .Values.config -}}
{{ include "pg-liveness-exporter.fullname" . }}-config
{{- else if gt (int .Values.shards) 1 -}}
{{ fail "shards above 1 need config or existingConfig.secret: only a file has several servers" }}
{{- end -}}
{{- if and (gt (int .Values.shards) 1) (not .Values.serviceMonitor.enabled) -}}
{{ fail "shards above 1 need serviceMonitor.enabled: Prometheus divides the servers among the exporters" }}
{{- end }}
{{- end }}

{{/* The port for kubelets: a separate one if the exporter's port has TLS or passwords. */}}
{{- define "pg-liveness-exporter.healthPort" -}}
{{- if and .Values.webConfig.secret (eq (int .Values.service.port) 10433) -}}
{{ fail "service.port 10433 does not work with webConfig.secret: kubelets use that port" }}
{{- end -}}
{{ ternary "health" "http" (not (empty .Values.webConfig.secret)) }}
{{- end }}

{{/* How Prometheus reaches the port, of a ServiceMonitor's endpoint or a Probe. */}}
{{- define "pg-liveness-exporter.scrape" -}}
scheme: {{ .scheme }}
{{- with .tlsConfig }}
tlsConfig: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .basicAuth }}
basicAuth: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
