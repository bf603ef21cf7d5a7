//! A container's environment: literal values, references, and `$(NAME)`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};

use schemas::quantity;

/// What references can point to, read before a Pod starts.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// ConfigMaps by name; absent ones are missing.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// Secrets by name; absent ones are missing.
    pub secrets: BTreeMap<String, Secret>,
    /// Name of the node.
    pub node: String,
}

impl Sources {
    /// Returns the bytes of a ConfigMap's key.
    pub fn config(&self, name: &str, key: &str) -> Option<Vec<u8>> {
        let map = self.config_maps.get(name)?;
        let text = map
            .data
            .as_ref()
            .and_then(|data| data.get(key))
            .map(|text| text.clone().into_bytes());
        text.or_else(|| {
            map.binary_data
                .as_ref()
                .and_then(|data| data.get(key))
                .map(|bytes| bytes.0.clone())
        })
    }

    /// Returns the bytes of a Secret's key.
    pub fn secret(&self, name: &str, key: &str) -> Option<Vec<u8>> {
        self.secrets
            .get(name)?
            .data
            .as_ref()?
            .get(key)
            .map(|bytes| bytes.0.clone())
    }
}

/// Builds the environment of a container, or says what is missing.
pub fn build(container: &Container, pod: &Pod, sources: &Sources) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.clone().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            let Some(map) = sources.config_maps.get(&reference.name) else {
                if reference.optional == Some(true) {
                    continue;
                }
                return Err(format!("configmap {:?} not found", reference.name));
            };
            all.extend(
                map.data
                    .iter()
                    .flatten()
                    .map(|(key, value)| (format!("{prefix}{key}"), value.clone())),
            );
        }
        if let Some(reference) = &from.secret_ref {
            let Some(secret) = sources.secrets.get(&reference.name) else {
                if reference.optional == Some(true) {
                    continue;
                }
                return Err(format!("secret {:?} not found", reference.name));
            };
            for (key, value) in secret.data.iter().flatten() {
                all.insert(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => match resolve(source, container, pod, sources)? {
                Some(value) => value,
                None => continue,
            },
            (value, None) => expand(value.as_deref().unwrap_or_default(), &all),
        };
        all.insert(variable.name.clone(), value);
    }
    Ok(all)
}

fn resolve(
    source: &EnvVarSource,
    container: &Container,
    pod: &Pod,
    sources: &Sources,
) -> Result<Option<String>, String> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if let Some(reference) = &source.config_map_key_ref {
        let found = sources.config(&reference.name, &reference.key).map(text);
        return match found {
            None if reference.optional != Some(true) => Err(format!(
                "couldn't find key {} in ConfigMap {}",
                reference.key, reference.name
            )),
            found => Ok(found),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let found = sources.secret(&reference.name, &reference.key).map(text);
        return match found {
            None if reference.optional != Some(true) => Err(format!(
                "couldn't find key {} in Secret {}",
                reference.key, reference.name
            )),
            found => Ok(found),
        };
    }
    if let Some(reference) = &source.field_ref {
        return field(&reference.field_path, pod, &sources.node).map(Some);
    }
    if let Some(reference) = &source.resource_field_ref {
        let resources = container.resources.clone().unwrap_or_default();
        let (kind, name) = reference.resource.split_once('.').unwrap_or(("", &reference.resource));
        let list = if kind == "requests" {
            resources.requests
        } else {
            resources.limits
        };
        let value = list
            .and_then(|list| list.get(name).cloned())
            .map(|value| value.0)
            .unwrap_or_else(|| "0".into());
        let unit = reference.divisor.as_ref().map_or("1", |divisor| divisor.0.as_str());
        let (Ok(amount), Ok(unit)) = (quantity::parse(&value), quantity::parse(unit)) else {
            return Ok(None);
        };
        return Ok(Some(amount.in_units_of(unit).to_string()));
    }
    Err("an env source of a kind that is not supported here".into())
}

fn field(path: &str, pod: &Pod, node: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let quoted = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
    let value = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "spec.nodeName" => Some(node.to_owned()),
        "spec.serviceAccountName" => pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()),
        "status.hostIP" | "status.podIP" => Some("127.0.0.1".into()),
        _ => {
            if let Some(key) = quoted("metadata.labels['") {
                meta.labels.as_ref().and_then(|labels| labels.get(key).cloned())
            } else if let Some(key) = quoted("metadata.annotations['") {
                meta.annotations
                    .as_ref()
                    .and_then(|annotations| annotations.get(key).cloned())
            } else {
                return Err(format!("fieldPath {path:?} is not supported here"));
            }
        }
    };
    Ok(value.unwrap_or_default())
}

/// Replaces `$(NAME)` by what the environment has; `$$(NAME)` stands for itself.
pub fn expand(text: &str, environment: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
            continue;
        }
        let name = rest
            .strip_prefix("$(")
            .and_then(|after| after.split_once(')'))
            .map(|(name, _)| name);
        match name {
            Some(name) => {
                match environment.get(name) {
                    Some(value) => out.push_str(value),
                    None => out.push_str(&rest[..name.len() + 3]),
                }
                rest = &rest[name.len() + 3..];
            }
            None => {
                out.push('$');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMapKeySelector, EnvVar, ObjectFieldSelector, SecretKeySelector};

    #[test]
    fn references_are_expanded_and_escapes_and_unknown_names_stay() {
        let all: BTreeMap<String, String> = [("A".to_owned(), "1".to_owned())].into();
        for (text, wanted) in [
            ("x$(A)y", "x1y"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("a$", "a$"),
            ("$(", "$("),
            ("$A", "$A"),
        ] {
            assert_eq!(expand(text, &all), wanted, "{text}");
        }
    }

    fn variable(name: &str, source: EnvVarSource) -> EnvVar {
        EnvVar {
            name: name.into(),
            value: None,
            value_from: Some(source),
        }
    }

    #[test]
    fn every_source_gives_its_value_and_a_missing_one_is_named() {
        let mut sources = Sources {
            node: "n".into(),
            ..Sources::default()
        };
        let config = ConfigMap {
            data: Some([("k".to_owned(), "v".to_owned())].into()),
            ..ConfigMap::default()
        };
        sources.config_maps.insert("c".into(), config);
        let mut pod = Pod::default();
        pod.metadata.labels = Some([("l".to_owned(), "w".to_owned())].into());
        let config = ConfigMapKeySelector {
            name: "c".into(),
            key: "k".into(),
            optional: None,
        };
        let label = ObjectFieldSelector {
            field_path: "metadata.labels['l']".into(),
            api_version: None,
        };
        let mut container = Container {
            env: Some(vec![
                variable(
                    "C",
                    EnvVarSource {
                        config_map_key_ref: Some(config),
                        ..EnvVarSource::default()
                    },
                ),
                variable(
                    "L",
                    EnvVarSource {
                        field_ref: Some(label),
                        ..EnvVarSource::default()
                    },
                ),
                EnvVar {
                    name: "X".into(),
                    value: Some("$(C)$(L)".into()),
                    value_from: None,
                },
            ]),
            ..Container::default()
        };
        let built = build(&container, &pod, &sources).unwrap();
        assert_eq!(built["X"], "vw");
        let secret = SecretKeySelector {
            name: "s".into(),
            key: "t".into(),
            optional: None,
        };
        container.env = Some(vec![variable(
            "S",
            EnvVarSource {
                secret_key_ref: Some(secret),
                ..EnvVarSource::default()
            },
        )]);
        assert_eq!(
            build(&container, &pod, &sources).unwrap_err(),
            "couldn't find key t in Secret s"
        );
    }
}
