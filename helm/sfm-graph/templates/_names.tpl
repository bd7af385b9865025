{{- define "sfm.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "sfm.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "sfm.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sfm.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels of one release; with a component those of its pods. Call with (dict "root" $ "component" "relay"). */}}
{{- define "sfm.selector" -}}
app.kubernetes.io/name: {{ include "sfm.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "sfm.labels" -}}
{{ include "sfm.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "sfm.image" -}}
{{- with .Values.image -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ with .digest }}@{{ . }}{{ end }}
{{- end -}}
{{- end -}}

{{/* The secret with the static token and its key, as YAML; nothing without one. */}}
{{- define "sfm.tokenSecret" -}}
{{- if .Values.auth.existingSecret.name -}}
name: {{ .Values.auth.existingSecret.name }}
key: {{ .Values.auth.existingSecret.key }}
{{- else if .Values.auth.token -}}
name: {{ include "sfm.fullname" . }}-auth
key: api-token
{{- end -}}
{{- end -}}


{{/* Connections to Postgres at most, as a number: of each process of the service its pool and 4 beside it, with one
replica more during an upgrade, and 20 for relays, followers and jobs. */}}
{{- define "sfm.connections" -}}
{{- $service := .Values.service -}}
{{- $replicas := ternary $service.autoscaling.maxReplicas $service.replicas $service.autoscaling.enabled | int | add 1 -}}
{{- $workers := default "1" (coalesce .Values.settings.UVICORN_WORKERS .Values.settings.SFM_WORKERS) | int -}}
{{- $pool := default "16" .Values.settings.SFM_POOL_MAX_SIZE | int -}}
{{- add 20 (mul $replicas $workers (add $pool 4)) -}}
{{- end -}}
