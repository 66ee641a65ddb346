{{/* The worker's configuration: the value `config` with what the chart adds, written as TOML. */}}

{{/* Folders that the chart mounts into the pods. */}}
{{- define "lapwing.configFolder" }}/etc/lapwing{{ end }}
{{- define "lapwing.brokerFolder" }}/run/secrets/lapwing/broker{{ end }}
{{- define "lapwing.adminFolder" }}/run/secrets/lapwing/admin{{ end }}
{{- define "lapwing.tlsFolder" }}/run/secrets/lapwing/tls{{ end }}

{{/* The value `config` with ports and names of secret files, as a YAML text. */}}
{{- define "lapwing.settings" -}}
{{- $v := .Values }}
{{- $settings := deepCopy $v.config }}
{{- $file := ternary "password" "url" $v.broker.credentials.enabled }}
{{- $broker := dict (printf "%s_file" $file) (printf "%s/%s" (include "lapwing.brokerFolder" .) $file) }}
{{- with $v.broker.tls }}
{{- if .existingSecret }}
{{- $folder := include "lapwing.tlsFolder" $ }}
{{- $tls := dict }}
{{- range $setting, $key := dict "ca_file" .caKey "cert_file" .certKey "key_file" .keyKey }}
{{- if $key }}{{- $_ := set $tls $setting (printf "%s/%s" $folder $key) }}{{- end }}
{{- end }}
{{- $_ := set $broker "tls" $tls }}
{{- end }}
{{- end }}
{{- $admin := dict "probes" (printf "0.0.0.0:%d" (int $v.ports.probes)) }}
{{- $_ := set $admin "listen" (printf "%s:%d" (ternary "0.0.0.0" "127.0.0.1" $v.admin.expose) (int $v.ports.admin)) }}
{{- if include "lapwing.hasToken" . }}
{{- $_ := set $admin "token_file" (printf "%s/token" (include "lapwing.adminFolder" .)) }}
{{- end }}
{{- with $v.ingress }}
{{- if .enabled }}
{{- $origin := printf "%s://%s" (ternary "https" "http" (not (empty .tlsSecret))) .host }}
{{- $_ := set $admin "origins" (append (dig "admin" "origins" list $v.config) $origin | uniq) }}
{{- end }}
{{- end }}
{{- mergeOverwrite $settings (dict "broker" $broker "admin" $admin) | toYaml }}
{{- end }}

{{- define "lapwing.toml" -}}
{{- include "lapwing.tomlTable" (dict "table" (include "lapwing.settings" . | fromYaml) "path" "") | trim }}
{{- end }}

{{/* A table as TOML: first its values, then its tables, each under its header. Helm's own toToml is
not used: it writes 64 as 64.0, and the worker refuses 64.0 for a whole number. */}}
{{- define "lapwing.tomlTable" }}
{{- $path := .path }}
{{- $tables := dict }}
{{- range $key, $value := .table }}
{{- if kindIs "map" $value }}
{{- $_ := set $tables $key $value }}
{{- else if not (kindIs "invalid" $value) }}
{{ include "lapwing.tomlKey" $key }} = {{ include "lapwing.tomlValue" $value }}
{{- end }}
{{- end }}
{{- range $key, $table := $tables }}
{{- $name := printf "%s%s" (ternary "" (printf "%s." $path) (empty $path)) (include "lapwing.tomlKey" $key) }}
{{- $inside := include "lapwing.tomlTable" (dict "table" $table "path" $name) }}
{{- if or (empty $table) (not (hasPrefix "[" (trim $inside))) }}

[{{ $name }}]
{{- end }}
{{- $inside }}
{{- end }}
{{- end }}

{{- define "lapwing.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toRawJson . }}{{ end }}
{{- end }}

{{/* A value as TOML. TOML reads JSON's form of every value except tables. */}}
{{- define "lapwing.tomlValue" -}}
{{- if kindIs "map" . }}
{{- $pairs := list }}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{- $pairs = append $pairs (printf "%s = %s" (include "lapwing.tomlKey" $key) (include "lapwing.tomlValue" $value)) }}
{{- end }}
{{- end }}
{{- printf "{ %s }" (join ", " $pairs) }}
{{- else if kindIs "slice" . }}
{{- $items := list }}
{{- range . }}{{ $items = append $items (include "lapwing.tomlValue" .) }}{{ end }}
{{- printf "[%s]" (join ", " $items) }}
{{- else }}
{{- toRawJson . }}
{{- end }}
{{- end }}

{{/* The worker's defaults of all settings that limit its shutdown, as in config/default.toml. */}}
{{- define "lapwing.defaults" -}}
drain: {grace: "25s", settle: "5s"}
timeouts: {declare: "10s", ack: "5s", close: "2s", telemetry_flush: "2s"}
consumer: {prefetch: 64, cancel_grace: "1s"}
{{- end }}

{{/* The sections drain and timeouts, with defaults for missing keys, as a YAML text. */}}
{{- define "lapwing.bounds" -}}
{{- $defaults := pick (include "lapwing.defaults" . | fromYaml) "drain" "timeouts" }}
{{- mergeOverwrite $defaults (pick .Values.config "drain" "timeouts" | deepCopy) | toYaml }}
{{- end }}

{{/* A duration of the worker's configuration in seconds: "1m 30s" is 90. */}}
{{- define "lapwing.seconds" -}}
{{- $units := dict "ns" 0.000000001 "us" 0.000001 "ms" 0.001 "s" 1.0 "sec" 1.0 "second" 1.0 "m" 60.0 "min" 60.0 "minute" 60.0 "h" 3600.0 "hr" 3600.0 "hour" 3600.0 "d" 86400.0 "day" 86400.0 }}
{{- $sum := 0.0 }}
{{- $text := . | toString }}
{{- if not (regexMatch "^([0-9]+ *(ns|us|ms|s|sec|second|m|min|minute|h|hr|hour|d|day)s? *)+$" $text) }}
{{- fail (printf "%q is no duration: a number and its unit, such as 25s or 1m 30s" $text) }}
{{- end }}
{{- range regexFindAll "[0-9]+ *[a-z]+" $text -1 }}
{{- $unit := regexFind "[a-z]+" . }}
{{- $factor := get $units $unit | default (get $units (trimSuffix "s" $unit)) }}
{{- $sum = addf $sum (mulf (regexFind "[0-9]+" . | float64) $factor) }}
{{- end }}
{{- $sum }}
{{- end }}

{{/*
The longest time from SIGTERM to the worker's end, rounded up. Kubernetes must not kill the pod before.
The terms in their order: the grace, or the time to cancel the consumers and return what has not started
if that takes longer; the grace of cancelled handlers; writing the last acks; the time for the broker to
apply them; closing a channel and two connections; flushing telemetry. Four more seconds cover the steps
between these terms on a busy node.
*/}}
{{- define "lapwing.terminationGracePeriodSeconds" -}}
{{- $defaults := include "lapwing.defaults" . | fromYaml }}
{{- $seconds := dict }}
{{- range $section, $keys := include "lapwing.bounds" . | fromYaml }}
{{- range $key, $value := $keys }}
{{- if hasKey (get $defaults $section) $key }}
{{- $_ := set $seconds $key (include "lapwing.seconds" $value | float64) }}
{{- end }}
{{- end }}
{{- end }}
{{- $cancel := 0.0 }}
{{- range .Values.config.consumers }}
{{- $cancel = maxf $cancel (include "lapwing.seconds" (default $defaults.consumer.cancel_grace .cancel_grace) | float64) }}
{{- end }}
{{- $stop := addf (mulf 2.0 $seconds.declare) $seconds.ack }}
{{- $bound := addf (maxf $seconds.grace $stop) $cancel $seconds.ack $seconds.settle }}
{{- $bound = addf $bound (mulf 3.0 $seconds.close) $seconds.telemetry_flush 4.0 }}
{{- add (ceil $bound) .Values.extraTerminationSeconds }}
{{- end }}
