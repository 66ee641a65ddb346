{{/* Parts of pods that the Deployment and the test share. */}}

{{/* Mounts are folders, not single files: Kubernetes never updates a file mounted by subPath, so the
worker would not see a rotated secret. */}}
{{/* extraEnv as a list, whichever of its two forms it has. */}}
{{- define "lapwing.extraEnv" -}}
{{- if kindIs "map" .Values.extraEnv }}
{{- $all := list }}
{{- range $name, $value := .Values.extraEnv }}
{{- $rest := ternary $value (dict "value" (toString $value)) (kindIs "map" $value) }}
{{- $all = append $all (merge (dict "name" $name) $rest) }}
{{- end }}
{{- toYaml $all }}
{{- else }}
{{- toYaml (default list .Values.extraEnv) }}
{{- end }}
{{- end }}

{{/* The variables that say where the broker is, if a Secret holds user, password and host apart. */}}
{{- define "lapwing.brokerEnv" -}}
{{- with .Values.broker }}
{{- if .credentials.enabled }}
{{- $secret := .existingSecret }}
{{- range $variable, $pair := dict
  "BROKER_USER" (list "" .credentials.usernameKey)
  "BROKER_HOST" (list .credentials.host .credentials.hostKey)
  "BROKER_PORT" (list (ternary "" (toString .credentials.port) (eq (int .credentials.port) 0)) .credentials.portKey) }}
- name: {{ $variable }}
  {{- if first $pair }}
  value: {{ first $pair | quote }}
  {{- else }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: {{ last $pair }}
  {{- end }}
{{- end }}
# Kubernetes puts the values of the variables above into this one. The password is in a file.
- name: LAPWING__BROKER__URL
  value: {{ printf "%s://$(BROKER_USER)@$(BROKER_HOST):$(BROKER_PORT)/%s" (ternary "amqps" "amqp" .credentials.tls) (urlquery .credentials.virtualHost) | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "lapwing.volumeMounts" -}}
- name: config
  mountPath: {{ include "lapwing.configFolder" . }}
  readOnly: true
- name: broker
  mountPath: {{ include "lapwing.brokerFolder" . }}
  readOnly: true
{{- if .Values.broker.tls.existingSecret }}
- name: tls
  mountPath: {{ include "lapwing.tlsFolder" . }}
  readOnly: true
{{- end }}
{{- if include "lapwing.hasToken" . }}
- name: admin
  mountPath: {{ include "lapwing.adminFolder" . }}
  readOnly: true
{{- end }}
{{- end }}

{{- define "lapwing.volumes" -}}
- name: config
  configMap:
    name: {{ include "lapwing.fullname" . }}
- name: broker
  secret:
    secretName: {{ include "lapwing.brokerSecret" . }}
    defaultMode: 0440
    items:
      {{- if .Values.broker.credentials.enabled }}
      - key: {{ .Values.broker.credentials.passwordKey }}
        path: password
      {{- else }}
      - key: {{ .Values.broker.existingSecretKey }}
        path: url
      {{- end }}
{{- with .Values.broker.tls }}
{{- if .existingSecret }}
- name: tls
  secret:
    secretName: {{ .existingSecret }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- if include "lapwing.hasToken" . }}
- name: admin
  secret:
    secretName: {{ include "lapwing.adminSecret" . }}
    defaultMode: 0440
    items:
      - key: {{ .Values.admin.existingSecretKey }}
        path: token
{{- end }}
{{- end }}

{{- define "lapwing.scheduling" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A slow hash of the chart's own secrets, for an annotation that changes when they do. Who may read pods
but not Secrets cannot guess them from it: the hash is scrypt, salted with the release's name. A random salt
would change at each rendering, and replace all pods. */}}
{{- define "lapwing.secretChecksum" -}}
{{- $secrets := list .Values.broker.url .Values.admin.token | toJson }}
{{- derivePassword 1 "maximum" $secrets .Release.Name .Release.Namespace | sha256sum }}
{{- end }}

{{/* The template of a pod that runs the worker. `root` is the chart's context, `component` the pod's label,
`args` follow `run`. `once`: the pod belongs to a Job and ends by itself. */}}
{{- define "lapwing.podTemplate" -}}
{{- $root := .root }}
{{- $bounds := include "lapwing.bounds" $root | fromYaml }}
metadata:
  # No label has the chart's version, so that an upgrade of the chart alone does not replace pods.
  labels:
    {{- include "lapwing.releaseLabels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
    {{- with $root.Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with $root.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: lapwing
    checksum/config: {{ include "lapwing.toml" $root | sha256sum }}
    {{- if or $root.Values.broker.url $root.Values.admin.token }}
    checksum/secret: {{ include "lapwing.secretChecksum" $root }}
    {{- end }}
    {{- with $root.Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- if .once }}
  restartPolicy: Never
  {{- end }}
  serviceAccountName: {{ include "lapwing.serviceAccountName" $root }}
  automountServiceAccountToken: {{ or $root.Values.serviceAccount.automountToken $root.Values.podDeletionCost.enabled }}
  # The worker does not use the environment variables of the namespace's Services.
  enableServiceLinks: false
  # Computed from drain.grace ({{ $bounds.drain.grace }}) and the steps that follow it. No preStop hook
  # is needed: the worker itself stops consuming at SIGTERM, and no load balancer sends it requests.
  terminationGracePeriodSeconds: {{ include "lapwing.terminationGracePeriodSeconds" $root }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml $root.Values.podSecurityContext | nindent 4 }}
  {{- with $root.Values.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: lapwing
      image: {{ include "lapwing.image" $root | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: {{ concat (list "run") .args $root.Values.extraArgs | toJson }}
      # `kubectl describe pod` then shows why a worker ended: the last lines of its log.
      terminationMessagePolicy: FallbackToLogsOnError
      env:
        - name: LAPWING_CONFIG
          value: {{ include "lapwing.configFolder" $root }}/lapwing.toml
        # Set here too, so that a variable of extraEnvFrom cannot make the drain longer than the
        # pod's grace period.
        - name: LAPWING__DRAIN__GRACE
          value: {{ $bounds.drain.grace | quote }}
        # For `lapwing doctor`: nothing else shows the pod's grace period to a process.
        - name: LAPWING_POD_GRACE
          value: {{ include "lapwing.terminationGracePeriodSeconds" $root }}s
        {{- if $root.Values.podDeletionCost.enabled }}
        - name: LAPWING__POD_DELETION_COST__POD
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        {{- end }}
        {{- with include "lapwing.brokerEnv" $root | trim }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with include "lapwing.extraEnv" $root | fromYamlArray }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $root.Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: admin
          containerPort: {{ $root.Values.ports.admin }}
        - name: probes
          containerPort: {{ $root.Values.ports.probes }}
      {{- if not .once }}
      startupProbe:
        httpGet: {path: /startupz, port: probes}
        {{- toYaml $root.Values.startupProbe | nindent 8 }}
      {{- end }}
      livenessProbe:
        httpGet: {path: /livez, port: probes}
        {{- toYaml $root.Values.livenessProbe | nindent 8 }}
      {{- if not .once }}
      readinessProbe:
        httpGet: {path: /readyz, port: probes}
        {{- toYaml $root.Values.readinessProbe | nindent 8 }}
      {{- end }}
      {{- with $root.Values.lifecycle }}
      lifecycle:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- toYaml $root.Values.securityContext | nindent 8 }}
      {{- with $root.Values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        {{- include "lapwing.volumeMounts" $root | nindent 8 }}
        {{- with $root.Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- if not .once }}
    {{- with $root.Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- end }}
  volumes:
    {{- include "lapwing.volumes" $root | nindent 4 }}
    {{- with $root.Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $root.Values.hostAliases }}
  hostAliases:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "lapwing.scheduling" $root | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with ternary list $root.Values.topologySpreadConstraints (not (empty .once)) }}
  topologySpreadConstraints:
    {{- range . }}
    {{- $ours := dict "labelSelector" (dict "matchLabels" (include "lapwing.selectorLabels" $root | fromYaml)) }}
    {{- list (merge (deepCopy .) $ours) | toYaml | nindent 4 }}
    {{- end }}
  {{- end }}
{{- end }}

{{/* The triggers of KEDA, one for each queue and the extra ones. */}}
{{- define "lapwing.triggers" -}}
{{- $root := . }}
{{- $name := include "lapwing.fullname" . }}
{{- $defaults := (include "lapwing.defaults" . | fromYaml).consumer }}
{{- with .Values.keda }}
{{- if .rabbitmq.enabled }}
{{- $rabbitmq := .rabbitmq }}
{{- range $consumer, $settings := $root.Values.config.consumers }}
{{- $own := default dict (get $rabbitmq.consumers $consumer) }}
{{- $prefetch := default $defaults.prefetch $settings.prefetch }}
- type: rabbitmq
  name: {{ $consumer | replace "_" "-" }}
  metadata:
    protocol: http
    queueName: {{ $settings.queue | quote }}
    mode: QueueLength
    # Unacked messages count, because running pods work on them.
    excludeUnacknowledged: "false"
    value: {{ coalesce $own.messagesPerReplica $rabbitmq.messagesPerReplica $prefetch | int | quote }}
    activationValue: {{ default $rabbitmq.activation $own.activation | int | quote }}
  authenticationRef:
    name: {{ $name }}
{{- end }}
{{- end }}
{{- with .extraTriggers }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}
{{- end }}
