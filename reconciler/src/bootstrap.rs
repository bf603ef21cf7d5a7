//! Queues and forges to begin with, from a file that an installer left.
//!
//! An installer cannot make an object of a kind that the API has only now been told of. What it leaves in the file is
//! created here, once; what is there already is left alone, so that whoever changed it keeps the last word.

use std::path::Path;

use schemas::{Forge, TaskQueue};
use serde::Deserialize;
use serde_json::Value;

use crate::cache::{Cache, Key};
use crate::writer::{Error as WriteError, Outcome, Writer};

/// Why what the file asks for is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("failed to read {path}: {source}")]
    Read {
        /// File.
        path: String,
        /// Cause.
        source: std::io::Error,
    },
    /// The file is not what an installer writes.
    #[error("failed to read {path}: {why}; expected a JSON list of objects of the kinds TaskQueue and Forge")]
    Format {
        /// File.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// An object was not created.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// An object was not created, and is not there.
    #[error("failed to create {0}: its namespace may be missing; create it, or name another in the values")]
    Missing(String),
}

/// One object of the file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Wanted {
    kind: Kind,
    metadata: Metadata,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Kind {
    TaskQueue,
    Forge,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Metadata {
    name: String,
    namespace: String,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

/// Reads the file; one that is not there asks for nothing.
fn read(path: &Path) -> Result<Vec<Wanted>, Error> {
    let name = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::Read { path: name, source }),
    };
    serde_json::from_str(&text).map_err(|error| Error::Format {
        path: name,
        why: error.to_string(),
    })
}

/// Creates what the file asks for and is not there; returns how many objects were made.
pub async fn create(writer: &Writer, path: &Path) -> Result<usize, Error> {
    let mut made = 0;
    for wanted in read(path)? {
        let key = Key::new(&wanted.metadata.namespace, &wanted.metadata.name);
        let mut object = Value::Object(wanted.rest);
        object["metadata"] = Value::Object(wanted.metadata.rest);
        let outcome = match wanted.kind {
            Kind::TaskQueue => put::<TaskQueue>(writer, &key, object).await?,
            Kind::Forge => put::<Forge>(writer, &key, object).await?,
        };
        if outcome == Outcome::Done {
            made += 1;
            tracing::info!(object = %key, "created what the installation asks for");
        }
    }
    Ok(made)
}

async fn put<K>(writer: &Writer, key: &Key, object: Value) -> Result<Outcome, Error>
where
    K: kube::Resource + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    let nowhere: Cache<K> = Cache::default();
    let outcome = writer.create(&nowhere, key, object).await?;
    if outcome == Outcome::Lost {
        let api: kube::Api<K> = kube::Api::namespaced(writer.client().clone(), &key.namespace);
        let there = api.get_opt(&key.name).await.is_ok_and(|found| found.is_some());
        if !there {
            return Err(Error::Missing(key.to_string()));
        }
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_queues_and_forges_are_read_and_no_file_asks_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("objects.json");
        assert_eq!(read(&file).unwrap(), []);
        let queue = r#"{"apiVersion":"foreman.llmkube.dev/v1alpha1","kind":"TaskQueue","metadata":{"name":"team","namespace":"n","labels":{"a":"b"}},"spec":{"git":{"url":"https://git.example/t"}}}"#;
        std::fs::write(&file, format!("[{queue}]")).unwrap();
        let found = read(&file).unwrap();
        assert_eq!(
            (found[0].kind, found[0].metadata.name.as_str()),
            (Kind::TaskQueue, "team")
        );
        assert_eq!(found[0].metadata.rest["labels"]["a"], "b");
        for wrong in [
            queue.replace("TaskQueue", "Secret"),
            queue.replace("\"namespace\":\"n\",", ""),
        ] {
            std::fs::write(&file, format!("[{wrong}]")).unwrap();
            let said = read(&file).unwrap_err().to_string();
            assert!(
                said.contains("objects.json") && said.contains("TaskQueue and Forge"),
                "{said}"
            );
        }
    }
}
