{{- define "cloacina.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "cloacina.selector" -}}
app.kubernetes.io/name: cloacina
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "cloacina.labels" -}}
{{ include "cloacina.selector" . }}
app.kubernetes.io/part-of: cloacina
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | quote }}
{{- end -}}

{{- define "cloacina.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}{{ include "cloacina.fullname" . }}{{- else -}}default{{- end -}}
{{- end -}}

{{- define "cloacina.secretName" -}}
{{- default (include "cloacina.fullname" .) .Values.secrets.existingSecret -}}
{{- end -}}

{{- /* Where services answer gRPC, HTTP and /metrics. */ -}}
{{- define "cloacina.rpcPort" -}}
{{- get (dict "api" 9200 "scheduler" 9201 "reconciler" 9202 "executor" 9203) .component -}}
{{- end -}}
{{- define "cloacina.httpPort" -}}
{{- get (dict "api" 8080 "scheduler" 9101 "reconciler" 9102 "executor" 9103) .component -}}
{{- end -}}
{{- define "cloacina.httpPortName" -}}
{{- if eq .component "api" -}}http{{- else -}}metrics{{- end -}}
{{- end -}}

{{- define "cloacina.pullable" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{- /* A value of the chart's Secret that was given, or made at the install and found again at each upgrade. */ -}}
{{- define "cloacina.kept" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace (include "cloacina.fullname" .root) -}}
{{- $data := default dict (get (default dict $found) "data") -}}
{{- if .given -}}{{ .given | b64enc }}
{{- else if hasKey $data .key -}}{{ get $data .key }}
{{- else -}}{{ .made | b64enc }}
{{- end -}}
{{- end -}}

{{- /* A pod of one of the services. root: the chart's context; component: the service; own: its values; variables:
       environment of its own, by name; secrets: environment from the chart's Secret, key by name. */ -}}
{{- define "cloacina.pod" -}}
{{- $values := .root.Values -}}
{{- $http := include "cloacina.httpPort" . | int -}}
{{- $scheme := ternary "HTTPS" "HTTP" (and (eq .component "api") (ne $values.api.tlsSecretName "")) -}}
metadata:
  labels:
    {{- include "cloacina.labels" . | nindent 4 }}
    {{- with .own.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/secret: {{ include (print .root.Template.BasePath "/secret.yaml") .root | sha256sum | trunc 32 }}
    {{- with .own.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "cloacina.serviceAccount" .root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add $values.graceSeconds 15 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: { type: RuntimeDefault }
  {{- with $values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .own.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .own.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .own.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .own.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "cloacina.selector" . | nindent 10 }}
  containers:
    - name: {{ .component }}
      image: {{ include "cloacina.pullable" .root | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args: [services.{{ .component }}]
      ports:
        - name: {{ include "cloacina.httpPortName" . }}
          containerPort: {{ $http }}
        - name: grpc
          containerPort: {{ include "cloacina.rpcPort" . }}
      env:
        - name: CLOACINA_GRACE_S
          value: {{ $values.graceSeconds | quote }}
        - name: CLOACINA_LOG
          value: {{ $values.logs.level | quote }}
        - name: CLOACINA_LOG_RETENTION_DAYS
          value: {{ $values.logs.retentionDays | quote }}
        {{- if $values.tracing.endpoint }}
        - name: OTEL_EXPORTER_OTLP_ENDPOINT
          value: {{ $values.tracing.endpoint | quote }}
        - name: OTEL_SERVICE_NAME
          value: {{ $values.tracing.serviceName | quote }}
        - name: OTEL_TRACES_SAMPLER
          value: {{ $values.tracing.sampler | quote }}
        - name: OTEL_TRACES_SAMPLER_ARG
          value: {{ $values.tracing.samplerArgument | quote }}
        {{- end }}
        {{- if $values.tls.enabled }}
        - name: CLOACINA_TLS_CERT
          value: /etc/cloacina/tls/tls.crt
        - name: CLOACINA_TLS_KEY
          value: /etc/cloacina/tls/tls.key
        - name: CLOACINA_TLS_CA
          value: /etc/cloacina/tls/ca.crt
        {{- end }}
        {{- if ne .component "executor" }}
        - name: CLOACINA_DATABASE_URL
          valueFrom:
            secretKeyRef:
              {{- if $values.database.existingSecret }}
              name: {{ $values.database.existingSecret }}
              key: {{ $values.database.existingSecretKey }}
              {{- else }}
              name: {{ include "cloacina.fullname" .root }}
              key: database-url
              {{- end }}
        {{- end }}
        {{- if eq .component "scheduler" }}
        - name: POD_IP
          valueFrom: { fieldRef: { fieldPath: status.podIP } }
        - name: CLOACINA_SCHEDULER_ADVERTISE
          value: $(POD_IP):9201
        {{- end }}
        {{- range $name, $key := .secrets }}
        - name: {{ $name }}
          valueFrom:
            secretKeyRef:
              name: {{ include "cloacina.secretName" $.root }}
              key: {{ $key }}
              {{- if eq $key "secret-kek" }}
              optional: true
              {{- end }}
        {{- end }}
        {{- range $name, $value := .variables }}
        - name: {{ $name }}
          value: {{ $value | toString | quote }}
        {{- end }}
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- with .own.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      startupProbe: # a service that waits for its database is not killed for two minutes
        httpGet: { path: /health, port: {{ include "cloacina.httpPortName" . }}, scheme: {{ $scheme }} }
        periodSeconds: 2
        failureThreshold: 60
      livenessProbe: # /health says only that the process answers: a database that is away is no reason to restart
        httpGet: { path: /health, port: {{ include "cloacina.httpPortName" . }}, scheme: {{ $scheme }} }
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        {{- if eq .component "api" }}
        httpGet: { path: /ready, port: http, scheme: {{ $scheme }} }
        {{- else if $values.tls.enabled }}
        httpGet: { path: /health, port: metrics }
        {{- else }}
        grpc: { port: {{ include "cloacina.rpcPort" . }} } # grpc.health.v1: it serves, and does not drain
        {{- end }}
        periodSeconds: 5
        timeoutSeconds: 4
        failureThreshold: 2
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: { drop: [ALL] }
      resources:
        {{- toYaml .own.resources | nindent 8 }}
      volumeMounts:
        - { name: home, mountPath: /var/lib/cloacina }
        - { name: temporary, mountPath: /tmp }
        {{- if $values.tls.enabled }}
        - { name: tls, mountPath: /etc/cloacina/tls, readOnly: true }
        {{- end }}
        {{- if eq $scheme "HTTPS" }}
        - { name: api-tls, mountPath: /etc/cloacina/api-tls, readOnly: true }
        {{- end }}
  volumes:
    - name: home
      emptyDir: { sizeLimit: {{ default "4Gi" .own.homeSizeLimit }} }
    - name: temporary
      emptyDir: { sizeLimit: 2Gi }
    {{- if $values.tls.enabled }}
    - name: tls
      secret: { secretName: {{ required "tls.secretName is needed where tls.enabled is on" $values.tls.secretName }}, defaultMode: 0440 }
    {{- end }}
    {{- if eq $scheme "HTTPS" }}
    - name: api-tls
      secret: { secretName: {{ $values.api.tlsSecretName }}, defaultMode: 0440 }
    {{- end }}
{{- end -}}
