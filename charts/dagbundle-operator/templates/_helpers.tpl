{{- define "dagbundle.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Names of the two programs' objects: (list . "controller"). */}}
{{- define "dagbundle.name" -}}
{{- printf "%s-%s" (include "dagbundle.fullname" (index . 0)) (index . 1) -}}
{{- end -}}

{{/* What pods are selected by. It never changes, since a Deployment's selector cannot: (list . "controller"). */}}
{{- define "dagbundle.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of what belongs to both programs. */}}
{{- define "dagbundle.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/part-of: dagbundle
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Labels of what belongs to neither program alone. */}}
{{- define "dagbundle.labels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{ include "dagbundle.commonLabels" . }}
{{- end -}}

{{/* Labels of what belongs to one program: (list . "controller"). */}}
{{- define "dagbundle.componentLabels" -}}
{{ include "dagbundle.selector" . }}
{{ include "dagbundle.commonLabels" (index . 0) }}
{{- end -}}

{{/* What parsers' pods have, in whichever namespace: the runtime sets it, and a test holds the two together. */}}
{{- define "dagbundle.parserLabels" -}}
app.kubernetes.io/managed-by: dagbundle
{{- end -}}

{{- define "dagbundle.image" -}}
{{- $repository := required "image.repository is required: the image that the project's Dockerfile builds, such as registry.example/dagbundle-operator" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- $built := printf "%s%s" .Chart.AppVersion (empty .Values.airflow.version | ternary "" (printf "-airflow%s" .Values.airflow.version)) -}}
{{- printf "%s:%s" $repository (default $built .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "dagbundle.tlsSecret" -}}
{{- default (printf "%s-tls" (include "dagbundle.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{- define "dagbundle.serverHost" -}}
{{- printf "%s.%s.svc" (include "dagbundle.name" (list . "server")) .Release.Namespace -}}
{{- end -}}

{{/* Where the database is. The URL holds a password: it is only ever taken from the Secret. */}}
{{- define "dagbundle.databaseEnv" -}}
- name: DAGBUNDLE_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ required "database.existingSecret is required: a Secret in the release's namespace whose key `url` (database.key) has the URL of a PostgreSQL" .Values.database.existingSecret }}
      key: {{ .Values.database.key }}
{{- end -}}

{{/* Where the controller listens, where that is not where the database is: likewise a URL with a password. */}}
{{- define "dagbundle.listenEnv" -}}
{{- if .Values.database.listenKey -}}
- name: DAGBUNDLE_LISTEN_URL
  valueFrom:
    secretKeyRef: {name: {{ .Values.database.existingSecret }}, key: {{ .Values.database.listenKey }}}
{{- end -}}
{{- end -}}

{{/* What tells a program to publish into Airflow too, and how that deployment is set up. */}}
{{- define "dagbundle.airflowEnv" -}}
{{- with .Values.airflow -}}
{{- if .version -}}
- {name: DAGBUNDLE_TARGET, value: airflow}
- {name: DAGBUNDLE_ALLOWED_CLASSES, value: {{ join "," .allowed.classes | quote }}}
- {name: DAGBUNDLE_ALLOWED_CALLBACK_EXECUTORS, value: {{ join "," .allowed.callbackExecutors | quote }}}
- {name: DAGBUNDLE_ALLOWED_SHARED_ASSETS, value: {{ .allowed.sharedAssets | quote }}}
{{- if not (kindIs "invalid" .allowed.triggers) }}
- {name: DAGBUNDLE_ALLOWED_TRIGGERS, value: {{ join "," .allowed.triggers | quote }}}
{{- end }}
{{- if not (kindIs "invalid" .allowed.callbacks) }}
- {name: DAGBUNDLE_ALLOWED_CALLBACKS, value: {{ join "," .allowed.callbacks | quote }}}
{{- end }}
{{- if not (kindIs "invalid" .allowed.pools) }}
- {name: DAGBUNDLE_ALLOWED_POOLS, value: {{ join "," .allowed.pools | quote }}}
{{- end }}
{{- if not (kindIs "invalid" .allowed.queues) }}
- {name: DAGBUNDLE_ALLOWED_QUEUES, value: {{ join "," .allowed.queues | quote }}}
{{- end }}
{{- if not (kindIs "invalid" .allowed.executors) }}
- {name: DAGBUNDLE_ALLOWED_EXECUTORS, value: {{ join "," .allowed.executors | quote }}}
{{- end }}
- name: AIRFLOW__CORE__FERNET_KEY
  valueFrom:
    secretKeyRef:
      name: {{ required "airflow.fernetKeySecret.name is required with airflow.version: a Secret in the release's namespace whose key `fernet-key` (airflow.fernetKeySecret.key) has the deployment's Fernet key" .fernetKeySecret.name }}
      key: {{ .fernetKeySecret.key }}
{{- range $section, $settings := .config }}
{{- range $name, $value := $settings }}
{{- $variable := printf "AIRFLOW__%s__%s" $section $name | upper }}
{{- if eq $variable "AIRFLOW__CORE__FERNET_KEY" }}
{{- fail "airflow.config: fernet_key is a secret, and values are not: name a Secret that has it in airflow.fernetKeySecret" }}
{{- end }}
- {name: {{ $variable }}, value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* More variables of one program: (list . "controller"). Those that the chart sets would be there twice. */}}
{{- define "dagbundle.extraEnv" -}}
{{- $own := list "DATABASE_URL" "LISTEN_URL" "GRANTS_FILE" "SERVER_URL" "SERVER_CA_FILE" "PARSER_IMAGE" "PARSER_PULL_SECRET" "CLUSTER_NAME" -}}
{{- $own = concat $own (list "LEASE_NAME" "NAMESPACE" "POD_NAME" "HEALTH_PORT" "METRICS_PORT" "LOG_FORMAT" "MAX_PARALLEL_PODS") -}}
{{- $own = concat $own (list "TLS_CERT_FILE" "TLS_KEY_FILE" "PORT") -}}
{{- $own = concat $own (list "TARGET" "ALLOWED_CLASSES" "ALLOWED_TRIGGERS" "ALLOWED_CALLBACKS" "ALLOWED_CALLBACK_EXECUTORS" "ALLOWED_SHARED_ASSETS" "ALLOWED_POOLS" "ALLOWED_QUEUES" "ALLOWED_EXECUTORS") -}}
{{- $airflow := list -}}
{{- range include "dagbundle.airflowEnv" (index . 0) | fromYamlArray -}}
{{- $airflow = append $airflow .name -}}
{{- end -}}
{{- range $entry := (index (index . 0).Values (index . 1)).extraEnv -}}
{{- if or (and (hasPrefix "DAGBUNDLE_" $entry.name) (has (trimPrefix "DAGBUNDLE_" $entry.name) $own)) (has $entry.name $airflow) -}}
{{- fail (printf "%s.extraEnv: %s is set by the chart; there is a value for it, or it must not change" (index $ 1) $entry.name) -}}
{{- end }}
- {{ toJson $entry }}
{{- end -}}
{{- end -}}

{{- define "dagbundle.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/*
Brings the tables to this version before a pod's program starts. Not a hook: an init container also runs where charts are only rendered
(Argo CD, `helm template`), after a restore of the database, and for `helm rollback`, where it says that the tables are newer. Pods that
start at the same time take turns, by a lock in the database; where nothing is to do it takes a second.
*/}}
{{- define "dagbundle.migration" -}}
{{- if .Values.database.migrate }}
initContainers:
  - name: migrate
    image: {{ include "dagbundle.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command: [/opt/dagbundle/bin/dagbundle, db, upgrade]
    env:
      {{- include "dagbundle.databaseEnv" . | nindent 6 }}
    resources:
      requests: {cpu: 50m, memory: 128Mi}
      limits: {memory: 512Mi}
    securityContext:
      {{- include "dagbundle.containerSecurityContext" . | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
{{- end }}
{{- end -}}

{{/* The part of a pod's spec that is the same for both programs: (list . "controller"). */}}
{{- define "dagbundle.podSpec" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index $root.Values $component -}}
serviceAccountName: {{ include "dagbundle.name" . }}
automountServiceAccountToken: true
enableServiceLinks: false
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{- toYaml (merge (deepCopy .) (dict "labelSelector" (dict "matchLabels" (include "dagbundle.selector" (list $root $component) | fromYaml)))) | nindent 4 }}
  {{- end }}
{{- end }}
securityContext:
  {{- range $key, $value := $root.Values.podSecurityContext }}
  {{- if not (kindIs "invalid" $value) }}
  {{ $key }}: {{ toJson $value }}
  {{- end }}
  {{- end }}
{{- end -}}

{{/* Labels and annotations of a pod: (list . "controller" checksum). */}}
{{- define "dagbundle.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index $root.Values $component -}}
labels:
  {{- include "dagbundle.componentLabels" (list $root $component) | nindent 2 }}
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  # the log of this container is what `kubectl logs` shows
  kubectl.kubernetes.io/default-container: {{ $component }}
  {{- with index . 2 }}
  # a changed grant starts new pods
  checksum/grants: {{ . }}
  {{- end }}
  {{- with $values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* What pods may reach, when that is limited at all. */}}
{{- define "dagbundle.egress" -}}
{{- with .Values.networkPolicy.egress }}
egress:
  - ports:  # names
      - {port: 53, protocol: UDP}
      - {port: 53, protocol: TCP}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Refuses what no schema can: the same namespace twice would make two RoleBindings of one name; and who may publish from the release's
own namespace may mount the Secret of the database. */}}
{{- define "dagbundle.checkTenants" -}}
{{- $seen := dict -}}
{{- range .Values.tenants -}}
{{- if hasKey $seen .namespace -}}
{{- fail (printf "tenants: namespace %s is listed more than once; put all that it is granted into one entry" .namespace) -}}
{{- end -}}
{{- if eq .namespace $.Release.Namespace -}}
{{- fail (printf "tenants: %s is the operator's own namespace, where a team's pods could read the database's password; use another" .namespace) -}}
{{- end -}}
{{- if hasPrefix "kube-" .namespace -}}
{{- fail (printf "tenants: %s is one of Kubernetes' own namespaces, where the controller would act as its accounts; use another" .namespace) -}}
{{- end -}}
{{- $_ := set $seen .namespace true -}}
{{- end -}}
{{- end -}}
