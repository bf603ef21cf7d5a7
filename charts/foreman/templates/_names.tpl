{{- define "foreman.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "foreman.namespace" -}}
{{ .Values.namespace | default .Release.Namespace }}
{{- end }}

{{- define "foreman.jobsNamespace" -}}
{{ .Values.jobsNamespace | default (printf "%s-jobs" (include "foreman.namespace" .)) }}
{{- end }}

{{- /* Of what belongs to no namespace: [root, part of the name]. Two releases of one name lie in two namespaces. */}}
{{- define "foreman.clusterName" -}}
{{ include "foreman.fullname" (index . 0) }}-{{ index . 1 }}.{{ include "foreman.namespace" (index . 0) }}
{{- end }}

{{- /* Of what lies in a namespace: [root, namespace, name]. Beside a release of the same name it bears the own namespace as well. */}}
{{- define "foreman.nameIn" -}}
{{- $root := index . 0 -}}
{{- $namespace := include "foreman.namespace" $root -}}
{{- $own := list $namespace (include "foreman.jobsNamespace" $root) -}}
{{ index . 2 }}{{ if not (has (index . 1) $own) }}.{{ $namespace }}{{ end }}
{{- end }}

{{- define "foreman.labels" -}}
app.kubernetes.io/name: foreman
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "foreman.repository" -}}
{{- if .registry -}}{{ trimSuffix "/" .registry }}/{{- end -}}{{ .repository }}
{{- end }}

{{- /* Image: [root, values of the image]. */}}
{{- define "foreman.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $repository := include "foreman.repository" $image -}}
{{- if $image.digest -}}
{{ $repository }}@{{ $image.digest }}
{{- else -}}
{{ $repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "foreman.operator.serviceAccount" -}}
{{ .Values.operator.serviceAccount.name | default (printf "%s-operator" (include "foreman.fullname" .)) }}
{{- end }}

{{- define "foreman.gate.serviceAccount" -}}
{{ .Values.gate.serviceAccount.name | default "foreman-gate" }}
{{- end }}

{{- define "foreman.coder.serviceAccount" -}}
{{ .Values.coder.serviceAccount.name | default "foreman-coder" }}
{{- end }}

{{- /* [map, values merged into it]: a map that is empty among the values empties the map's. Of a section that is empty nothing is said. */}}
{{- define "foreman.emptied" -}}
{{- $into := index . 0 -}}
{{- $sections := list "image" "serviceAccount" "metrics" "gitCredentials" "githubToken" "gateCache" -}}
{{- range $key, $value := index . 1 -}}
{{- if not (kindIs "map" $value) -}}
{{- else if $value -}}
{{- include "foreman.emptied" (list (get $into $key) $value) -}}
{{- else if not (has $key $sections) -}}
{{- $_ := set $into $key $value -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Pools by name, each with every value of an agent; the single one is called "". */}}
{{- define "foreman.pools" -}}
{{- $fullname := include "foreman.fullname" . -}}
{{- $pools := dict -}}
{{- $entries := .Values.agents | default (dict "" (dict)) -}}
{{- range $name, $entry := $entries -}}
{{- $pool := mergeOverwrite (deepCopy $.Values.agent) (deepCopy ($entry | default dict)) -}}
{{- include "foreman.emptied" (list $pool ($entry | default dict)) -}}
{{- if $pool.enabled -}}
{{- $prefix := ternary $fullname (printf "%s-%s" $fullname $name) (eq $name "") -}}
{{- $_ := set $pool "fullname" (printf "%s-agent" $prefix) -}}
{{- $_ := set $pool "account" ($pool.serviceAccount.name | default $pool.fullname) -}}
{{- $_ := set $pool "claim" (ternary ($pool.gateCache.name | default (printf "%s-gate-cache" $prefix)) "" $pool.gateCache.enabled) -}}
{{- $_ := set $pool "gitSecret" ($pool.coderGitSecret | default $.Values.coder.gitCredentialsSecret) -}}
{{- $_ := set $pool "gitSecretKey" ($pool.coderGitSecretKey | default $.Values.coder.gitCredentialsSecretKey) -}}
{{- $_ := set $pools $name $pool -}}
{{- end -}}
{{- end -}}
{{- toYaml $pools -}}
{{- end }}

{{- /* Everyone who acts as an agent: the service account, and the FleetNode names it may write. */}}
{{- define "foreman.writers" -}}
{{- $writers := list -}}
{{- range $name, $pool := fromYaml (include "foreman.pools" .) -}}
{{- $writers = append $writers (dict "account" $pool.account "fixed" $pool.fleetNodeName "suffix" (ternary "" (printf "-%s" $name) (eq $name "")) "create" $pool.serviceAccount.create "annotations" $pool.serviceAccount.annotations "taskNamespace" $pool.taskNamespace "foremanNamespace" $pool.foremanNamespace "secrets" $pool.secrets "gitSecret" $pool.gitSecret "claim" $pool.claim) -}}
{{- end -}}
{{- range $name, $host := .Values.hostAgents -}}
{{- $host = $host | default dict -}}
{{- $writers = append $writers (dict "account" (printf "%s-host-%s" (include "foreman.fullname" $) $name) "fixed" $name "suffix" "" "create" true "annotations" (dict) "taskNamespace" ($host.taskNamespace | default "") "foremanNamespace" "" "secrets" ($host.secrets | default list) "gitSecret" ($host.coderGitSecret | default $.Values.coder.gitCredentialsSecret) "claim" ($host.gateCacheClaim | default "")) -}}
{{- end -}}
{{- toYaml (dict "writers" $writers) -}}
{{- end }}

{{- /* A checksum of a Secret as it is in the cluster; empty where Helm may not look. */}}
{{- define "foreman.secretChecksum" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- if $name -}}
{{- $secret := lookup "v1" "Secret" (include "foreman.namespace" $root) $name -}}
{{- if $secret -}}{{- toJson $secret.data | sha256sum -}}{{- end -}}
{{- end -}}
{{- end }}
