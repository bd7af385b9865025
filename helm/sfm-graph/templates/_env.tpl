{{/* A variable out of a secret; nothing without the secret's name. (dict "variable" "X" "secret" (dict "name" "key")) */}}
{{- define "sfm.secretEnv" -}}
{{- if .secret.name }}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef: {name: {{ .secret.name }}, key: {{ .secret.key }}}
{{- end }}
{{- end -}}

{{/* The settings of what only passes changes on, or migrates: it makes no vectors, so it loads no model. */}}
{{- define "sfm.followerSettings" -}}
{{- range $name, $value := .Values.settings }}
{{- if not (regexMatch "_(EMBED|RERANK)|^SOMA_MODEL|^SOMA_ALLOW" $name) }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The ways to authenticate; sfm.tokenMount and sfm.tokenVolume bring the files. */}}
{{- define "sfm.authEnv" -}}
{{- if include "sfm.tokenSecret" . }}
- {name: SOMA_API_TOKEN_FILE, value: /run/secrets/sfm-graph/api-token}
{{- end }}
{{- with .Values.auth.jwt }}
{{- if .issuer }}
- {name: SFM_JWT_ISSUER, value: {{ .issuer | quote }}}
- {name: SFM_JWT_AUDIENCE, value: {{ .audience | quote }}}
{{- if .jwksUrl }}
- {name: SFM_JWT_JWKS_URL, value: {{ .jwksUrl | quote }}}
{{- else }}
- {name: SFM_JWT_PUBLIC_KEY_FILE, value: /run/secrets/sfm-graph/jwt.pem}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "sfm.tokenMount" -}}
{{- if or (include "sfm.tokenSecret" .) .Values.auth.jwt.publicKeySecret.name }}
- {name: token, mountPath: /run/secrets/sfm-graph, readOnly: true}
{{- end }}
{{- end -}}

{{- define "sfm.tokenVolume" -}}
{{- $token := include "sfm.tokenSecret" . | fromYaml -}}
{{- $jwt := .Values.auth.jwt.publicKeySecret -}}
{{- if or $token $jwt.name }}
- name: token
  projected:
    defaultMode: 0440
    sources:
      {{- with $token }}
      - secret:
          name: {{ .name }}
          items: [{key: {{ .key }}, path: api-token}]
      {{- end }}
      {{- if $jwt.name }}
      - secret:
          name: {{ $jwt.name }}
          items: [{key: {{ $jwt.key }}, path: jwt.pem}]
      {{- end }}
{{- end }}
{{- end -}}

{{/* Where a follower of the change log answers: its port is an argument, and Prometheus speaks to the pod's address. */}}
{{- define "sfm.followerEnv" -}}
- {name: SFM_DATA_DIR, value: /tmp}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- {name: SFM_ALLOWED_HOSTS, value: "localhost,127.0.0.1,$(POD_IP),[$(POD_IP)]"}
- {name: SFM_HOST, value: 0.0.0.0}
{{- include "sfm.authEnv" . }}
{{- end -}}

{{- define "sfm.postgresEnv" -}}
{{- with .Values.postgres -}}
{{- include "sfm.secretEnv" (dict "variable" "POSTGRES_URL" "secret" .urlSecret) }}
{{- with .sslMode }}
- {name: POSTGRES_SSL_MODE, value: {{ . }}}
{{- end }}
{{- if .caSecret.name }}
- {name: POSTGRES_SSL_ROOT_CERT, value: /etc/sfm-graph/trust/postgres.crt}
{{- end }}
{{- end }}
{{- end -}}

{{- define "sfm.redisEnv" -}}
{{- with .Values.redis -}}
{{- include "sfm.secretEnv" (dict "variable" "REDIS_URL" "secret" .urlSecret) }}
{{- if .caSecret.name }}
- {name: REDIS_SSL_CA_LOCATION, value: /etc/sfm-graph/trust/redis.crt}
{{- end }}
{{- end }}
{{- end -}}

{{/* Of the bus that changes are relayed to; of Redis, sfm.redisEnv has the rest. */}}
{{- define "sfm.busEnv" -}}
- {name: SFM_EVENT_BUS, value: {{ .Values.eventBus }}}
{{- if eq .Values.eventBus "kafka" }}
{{- with .Values.kafka }}
- {name: KAFKA_BOOTSTRAP_SERVERS, value: {{ .bootstrapServers | quote }}}
- {name: KAFKA_SECURITY_PROTOCOL, value: {{ .securityProtocol }}}
{{- if .saslUsername }}
- {name: KAFKA_SASL_MECHANISM, value: {{ .saslMechanism }}}
- {name: KAFKA_SASL_USERNAME, value: {{ .saslUsername | quote }}}
{{- end }}
{{- include "sfm.secretEnv" (dict "variable" "KAFKA_SASL_PASSWORD" "secret" .saslPasswordSecret) }}
{{- if .caSecret.name }}
- {name: KAFKA_SSL_CA_LOCATION, value: /etc/sfm-graph/trust/kafka.crt}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "sfm.qdrantEnv" -}}
{{- with .Values.qdrant -}}
{{- if .url }}
- {name: QDRANT_URL, value: {{ .url | quote }}}
{{- include "sfm.secretEnv" (dict "variable" "SFM_QDRANT_API_KEY" "secret" .apiKeySecret) }}
{{- if .caSecret.name }}
- {name: QDRANT_TLS_CERT, value: /etc/sfm-graph/trust/qdrant.crt}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "sfm.secretSettingsEnv" -}}
{{- range $name, $secret := .Values.secretSettings }}
{{- include "sfm.secretEnv" (dict "variable" $name "secret" $secret) }}
{{- end }}
{{- end -}}

{{/* The folder of the certificates that dependencies' are checked against: all in one, each under its name. */}}
{{- define "sfm.trustVolume" -}}
- name: trust
  projected:
    defaultMode: 0444
    sources:
      {{- range $name := list "postgres" "redis" "kafka" "qdrant" }}
      {{- with (index $.Values $name).caSecret }}
      {{- if .name }}
      - secret:
          name: {{ .name }}
          items: [{key: {{ .key }}, path: {{ $name }}.crt}]
      {{- end }}
      {{- end }}
      {{- end }}
      # A projected volume needs a source.
      - downwardAPI:
          items: [{path: release, fieldRef: {fieldPath: metadata.namespace}}]
{{- end -}}

{{- define "sfm.trustMount" -}}
- {name: trust, mountPath: /etc/sfm-graph/trust, readOnly: true}
{{- end -}}

{{- define "sfm.tmpVolume" -}}
- name: tmp
  emptyDir: {sizeLimit: 256Mi}
{{- end -}}

{{- define "sfm.tmpMount" -}}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{/* The volume of backups, which is there already: the chart's own, or yours. */}}
{{- define "sfm.backupsVolume" -}}
- name: backups
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-backups" (include "sfm.fullname" .)) .Values.backup.persistence.existingClaim }}
{{- end -}}

{{/* The settings of a job that runs before the release is there, with no config map of it. */}}
{{- define "sfm.jobEnv" -}}
{{- range $variable, $value := include "sfm.followerSettings" . | fromYaml }}
- {name: {{ $variable }}, value: {{ $value | quote }}}
{{- end }}
- {name: SFM_DATA_DIR, value: /tmp}
{{- include "sfm.postgresEnv" . }}
{{- end -}}
