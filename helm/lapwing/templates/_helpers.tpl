{{/* Names, labels, and checks of the values. */}}

{{- define "lapwing.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of objects: at most 52 characters, which leaves room for our and Kubernetes' suffixes. */}}
{{- define "lapwing.fullname" -}}
{{- $name := include "lapwing.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "lapwing.releaseLabels" -}}
app.kubernetes.io/name: {{ include "lapwing.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The labels of worker pods only, so that Service and budget do not select the pod of `helm test`. */}}
{{- define "lapwing.selectorLabels" -}}
{{ include "lapwing.releaseLabels" . }}
app.kubernetes.io/component: worker
{{- end }}

{{- define "lapwing.labels" -}}
{{ include "lapwing.releaseLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "lapwing.image" -}}
{{- with .Values.image }}
{{- $repository := .repository }}
{{- with $.Values.global.imageRegistry }}{{ $repository = printf "%s/%s" . $repository }}{{ end }}
{{- if .digest }}
{{- printf "%s@%s" $repository .digest }}
{{- else }}
{{- printf "%s:%s" $repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "lapwing.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "lapwing.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The Secret with the broker's URL: the existing one, or else the chart's own. */}}
{{- define "lapwing.brokerSecret" -}}
{{- default (include "lapwing.fullname" .) .Values.broker.existingSecret }}
{{- end }}

{{- define "lapwing.adminSecret" -}}
{{- default (include "lapwing.fullname" .) .Values.admin.existingSecret }}
{{- end }}

{{- define "lapwing.hasToken" -}}
{{- if or .Values.admin.token .Values.admin.existingSecret }}yes{{ end }}
{{- end }}

{{/* Not empty if an autoscaler sets the number of replicas. */}}
{{- define "lapwing.autoscales" -}}
{{- if or .Values.hpa.enabled .Values.keda.enabled }}yes{{ end }}
{{- end }}

{{/* Not empty if the release may have no pod, because somebody wants it so. */}}
{{- define "lapwing.mayBeEmpty" -}}
{{- if .Values.keda.enabled }}
{{- if or (eq .Values.workload "job") (eq (int .Values.keda.minReplicas) 0) }}yes{{ end }}
{{- else if and (not .Values.hpa.enabled) (eq (int .Values.replicaCount) 0) }}yes{{ end }}
{{- end }}

{{/* A quantity of Kubernetes in bytes: "64Ki" is 65536. Empty for other notations. */}}
{{- define "lapwing.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 }}
{{- $text := . | toString }}
{{- if regexMatch "^[0-9]+(k|M|G|Ki|Mi|Gi)?$" $text }}
{{- mul (regexFind "^[0-9]+" $text | int64) (get $units (regexFind "[A-Za-z]*$" $text)) }}
{{- end }}
{{- end }}

{{/* The memory that the worker may need: itself, and three times the bodies that it may hold at once. */}}
{{- define "lapwing.checkMemory" -}}
{{- $defaults := (include "lapwing.defaults" . | fromYaml).consumer }}
{{- $body := include "lapwing.bytes" .Values.largestBody }}
{{- if not $body }}
{{- fail (printf "largestBody: %q is no size, such as 64Ki or 2Mi" (toString .Values.largestBody)) }}
{{- end }}
{{- $messages := 0 }}
{{- range .Values.config.consumers }}
{{- $messages = add $messages (int (default $defaults.prefetch .prefetch)) }}
{{- end }}
{{- $limit := include "lapwing.bytes" (dig "limits" "memory" "" .Values.resources) }}
{{- if $limit }}
{{- $budget := int64 (dig "memory" "prefetch_bytes" (div (int64 $limit) 4) .Values.config) }}
{{- $held := max (min (mul $messages (int64 $body)) $budget) (mul (len .Values.config.consumers) (int64 $body)) }}
{{- $need := add 33554432 (mul 3 $held) }}
{{- if lt (int64 $limit) $need }}
{{- fail (printf "resources.limits.memory: the worker may hold messages of %dMi (config.memory.prefetch_bytes, by default a quarter of the limit; at least one of %v, largestBody, for each consumer), and need 3 times as much and 32Mi, %dMi; raise the limit, or lower prefetch_bytes or largestBody" (div (add $held 1048575) 1048576) .Values.largestBody (div (add $need 1048575) 1048576)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The NetworkPolicy must not cut off handlers that are not in the pod. */}}
{{- define "lapwing.checkHandlers" -}}
{{- $policy := .Values.networkPolicy }}
{{- if and $policy.enabled (not $policy.handlersTo) (not $policy.extraEgress) }}
{{- range $name, $consumer := .Values.config.consumers }}
{{- $handlers := list (default dict $consumer.handler) }}
{{- range $route := values (default dict $consumer.routes) }}
{{- $handlers = append $handlers (default dict $route.handler) }}
{{- end }}
{{- range $handlers }}
{{- $url := default "" .url }}
{{- if and $url (not (regexMatch "^https?://(localhost|127\\.[0-9.]+|\\[::1\\])([:/]|$)" $url)) }}
{{- fail (printf "networkPolicy: would cut off the handler of config.consumers.%s at %s: set networkPolicy.handlersTo to where it is, or extraEgress" $name (urlParse $url).host) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Checks that the schema cannot express, or whose schema error would print a secret. Each failure
names the value and what would be right. */}}
{{- define "lapwing.check" -}}
{{- $v := .Values }}
{{- if not $v.config.consumers }}
{{- fail "config.consumers: name at least one queue to consume, such as {orders: {queue: orders, handler: {kind: http, url: \"http://orders/\"}}}" }}
{{- end }}
{{- if and (not $v.broker.url) (not $v.broker.existingSecret) }}
{{- fail "broker: set broker.url, or broker.existingSecret to the name of a Secret that holds the URL" }}
{{- end }}
{{- range $key, $instead := dict
  "broker.url" "broker.url or broker.existingSecret" "broker.url_file" "broker.existingSecret"
  "broker.tls.ca_file" "broker.tls" "broker.tls.cert_file" "broker.tls" "broker.tls.key_file" "broker.tls"
  "admin.listen" "ports.admin and admin.expose" "admin.probes" "ports.probes"
  "pod_deletion_cost.pod" "podDeletionCost.enabled"
  "admin.token" "admin.token or admin.existingSecret" "admin.token_file" "admin.existingSecret" }}
{{- $part := $v.config }}
{{- range splitList "." $key }}{{ $part = ternary (get $part .) dict (and (kindIs "map" $part) (hasKey $part .)) }}{{ end }}
{{- if $part }}
{{- fail (printf "config.%s: is made by the chart, set the value %s" $key $instead) }}
{{- end }}
{{- end }}
{{- if and $v.broker.url (not (regexMatch "^amqps?://\\S+(\\s+amqps?://\\S+)*$" $v.broker.url)) }}
{{- fail "broker.url: must begin with amqp:// or amqps://, each of them where there are several" }}
{{- end }}
{{- if and $v.broker.url $v.broker.existingSecret }}
{{- fail "broker: set url or existingSecret, not both" }}
{{- end }}
{{- if and $v.admin.token $v.admin.existingSecret }}
{{- fail "admin: set token or existingSecret, not both" }}
{{- end }}
{{- if ne (empty $v.broker.tls.certKey) (empty $v.broker.tls.keyKey) }}
{{- fail "broker.tls: certKey and keyKey belong together, set both or none" }}
{{- end }}
{{- if and (eq $v.workload "job") (not $v.keda.enabled) }}
{{- fail "workload: job needs keda.enabled, because KEDA starts the Jobs" }}
{{- end }}
{{- if and $v.broker.credentials.enabled (not $v.broker.existingSecret) }}
{{- fail "broker.credentials: set broker.existingSecret to the name of the Secret that holds them" }}
{{- end }}
{{- include "lapwing.checkMemory" . }}
{{- include "lapwing.checkHandlers" . }}
{{- if and $v.ingress.enabled (or (not $v.ingress.host) (not $v.admin.expose)) }}
{{- fail "ingress: set ingress.host and admin.expose" }}
{{- end }}
{{- if eq (int $v.ports.admin) (int $v.ports.probes) }}
{{- fail "ports: admin and probes must differ" }}
{{- end }}
{{- if and $v.hpa.enabled $v.keda.enabled }}
{{- fail "hpa.enabled and keda.enabled: choose one, as KEDA makes a HorizontalPodAutoscaler of its own" }}
{{- end }}
{{- if and $v.hpa.enabled (not $v.hpa.targetCPUUtilizationPercentage) (not $v.hpa.metrics) }}
{{- fail "hpa: set targetCPUUtilizationPercentage or metrics, or there is nothing to scale on" }}
{{- end }}
{{- range $which := list "hpa" "keda" }}
{{- $scaler := index $v $which }}
{{- if and $scaler.enabled (gt (int $scaler.minReplicas) (int $scaler.maxReplicas)) }}
{{- fail (printf "%s: minReplicas is %d, must not be above maxReplicas (%d)" $which (int $scaler.minReplicas) (int $scaler.maxReplicas)) }}
{{- end }}
{{- end }}
{{- with $v.keda.rabbitmq }}
{{- if and $v.keda.enabled .enabled (empty .managementUrl) (empty .existingSecret) }}
{{- fail "keda.rabbitmq: set managementUrl, or existingSecret to the name of a Secret that holds it" }}
{{- end }}
{{- if and .managementUrl (not (regexMatch "^https?://\\S+$" .managementUrl)) }}
{{- fail "keda.rabbitmq.managementUrl: must begin with http:// or https://" }}
{{- end }}
{{- if and .managementUrl .existingSecret }}
{{- fail "keda.rabbitmq: set managementUrl or existingSecret, not both" }}
{{- end }}
{{- range $name, $_ := .consumers }}
{{- if not (hasKey $v.config.consumers $name) }}
{{- fail (printf "keda.rabbitmq.consumers.%s: config.consumers has no such consumer" $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $v.keda.enabled (not $v.keda.rabbitmq.enabled) (not $v.keda.extraTriggers) }}
{{- fail "keda: set rabbitmq.enabled or extraTriggers, or there is nothing to scale on" }}
{{- end }}
{{- if and $v.serviceMonitor.enabled (not $v.service.enabled) }}
{{- fail "serviceMonitor.enabled: needs service.enabled; podMonitor needs no Service" }}
{{- end }}
{{- if and $v.admin.expose (not $v.service.enabled) }}
{{- fail "admin.expose: needs service.enabled" }}
{{- end }}
{{- range include "lapwing.extraEnv" . | fromYamlArray }}
{{- if regexMatch "^LAPWING__(DRAIN|TIMEOUTS|ADMIN|POD_DELETION_COST)__" .name }}
{{- fail (printf "extraEnv: %s is to be set by config, from which the pod is made" .name) }}
{{- end }}
{{- end }}
{{- end }}
