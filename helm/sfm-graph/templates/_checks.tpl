{{/* What a schema cannot say of values that belong together. */}}
{{- define "sfm.checks" -}}
{{- with .Values -}}
{{- $jwtKeys := or .auth.jwt.jwksUrl .auth.jwt.publicKeySecret.name -}}
{{- $jwt := and .auth.jwt.issuer .auth.jwt.audience $jwtKeys -}}
{{- if not (or .auth.existingSecret.name .auth.token $jwt .auth.keysInDatabase) -}}
{{- fail "the service starts beyond loopback only with a way to authenticate: set auth.existingSecret.name (preferred), auth.token, auth.jwt, or auth.keysInDatabase" -}}
{{- end -}}
{{- if and .auth.existingSecret.name .auth.token -}}
{{- fail "auth.existingSecret.name and auth.token are both set; one of them is the token" -}}
{{- end -}}
{{- if and (or .auth.jwt.issuer .auth.jwt.audience $jwtKeys) (not $jwt) -}}
{{- fail "auth.jwt needs issuer, audience, and jwksUrl or publicKeySecret.name" -}}
{{- end -}}
{{- if and .auth.jwt.jwksUrl .auth.jwt.publicKeySecret.name -}}
{{- fail "auth.jwt.jwksUrl and auth.jwt.publicKeySecret.name are both set; one of them has the keys" -}}
{{- end -}}
{{- if eq .postgres.embedded (not (not .postgres.urlSecret.name)) -}}
{{- fail "set either postgres.urlSecret.name or postgres.embedded" -}}
{{- end -}}
{{- if and .postgres.embedded (or (gt (int .service.replicas) 1) .service.autoscaling.enabled .backup.enabled .migrate.enabled (ne .eventBus "none") .qdrant.url) -}}
{{- fail "postgres.embedded is in the service's own pod: one replica, without autoscaling, backup, migrate, eventBus and qdrant" -}}
{{- end -}}
{{- if and .restore.file (or .postgres.embedded (not (or .backup.enabled .backup.persistence.existingClaim))) -}}
{{- fail "restore.file needs an external database, and backup.enabled or backup.persistence.existingClaim, where the file is" -}}
{{- end -}}
{{- if and .tools.enabled .postgres.embedded -}}
{{- fail "tools are for an external database: an embedded one is reached in the service's own pod" -}}
{{- end -}}
{{- if and .service.persistence.enabled (or (gt (int .service.replicas) 1) .service.autoscaling.enabled) -}}
{{- fail "service.persistence is one volume for one replica" -}}
{{- end -}}
{{- if and (eq .eventBus "kafka") (not .kafka.bootstrapServers) -}}
{{- fail "eventBus kafka needs kafka.bootstrapServers" -}}
{{- end -}}
{{- if and (hasPrefix "SASL" .kafka.securityProtocol) (not (and .kafka.saslUsername .kafka.saslPasswordSecret.name)) -}}
{{- fail "kafka.securityProtocol SASL_... needs kafka.saslUsername and kafka.saslPasswordSecret.name" -}}
{{- end -}}
{{- if and (or (eq .eventBus "redis") .redis.cache) (not .redis.urlSecret.name) -}}
{{- fail "redis.cache and eventBus redis need redis.urlSecret.name" -}}
{{- end -}}
{{- if and .consumers (eq .eventBus "none") -}}
{{- fail "consumers need an eventBus" -}}
{{- end -}}
{{- range $name, $consumer := .consumers -}}
{{- if and ($consumer.persistence).enabled (gt (int (default 1 $consumer.replicas)) 1) -}}
{{- fail (printf "consumers.%s.persistence is one volume for one replica" $name) -}}
{{- end -}}
{{- end -}}
{{- if and .ingress.enabled (not .ingress.hosts) -}}
{{- fail "ingress.hosts is empty" -}}
{{- end -}}
{{- if and .monitoring.serviceMonitor.enabled (not (or .auth.existingSecret.name .auth.token .monitoring.serviceMonitor.tokenSecret.name)) -}}
{{- fail "without a static token monitoring.serviceMonitor.tokenSecret.name is needed: a key with the scope metrics" -}}
{{- end -}}
{{- end -}}
{{- end -}}
