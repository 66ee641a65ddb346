{{/* Parts of pods that the Deployment and the test share. */}}

{{/* Mounts are folders, not single files: Kubernetes never updates a file mounted by subPath, so the
worker would not see a rotated secret. */}}
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
      - key: {{ .Values.broker.existingSecretKey }}
        path: url
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
