//! Plays a recorded session: the model's words come from a file, everything else happens for real.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use futures::future::BoxFuture;

use super::{ModelError, Protocol, Provider, Reply, Request, Sink};
use crate::journal::{self, Entry, Header};

/// Plays the replies of one recorded session in their order.
#[derive(Debug)]
pub struct Replay {
    path: PathBuf,
    header: Header,
    replies: Vec<Reply>,
    next: Mutex<usize>,
}

/// Returns where the session of a task's round is kept: `<folder>/<stem>/round-<n>.jsonl`.
pub fn session_path(folder: &Path, stem: &str, round: u32) -> PathBuf {
    folder.join(stem).join(format!("round-{round}.jsonl"))
}

impl Replay {
    /// Opens the session of a task's round.
    pub fn find(folder: &Path, stem: &str, round: u32) -> Result<Self, ModelError> {
        let path = session_path(folder, stem, round);
        let plain = !stem.is_empty() && stem != "." && stem != ".." && !stem.contains(['/', '\\', '\0']);
        if !plain {
            return Err(ModelError::NoSession {
                path,
                reason: format!("{stem:?} is not the stem of a task file"),
            });
        }
        Self::open(path)
    }

    /// Opens a session file.
    pub fn open(path: PathBuf) -> Result<Self, ModelError> {
        let entries = journal::read(&path).map_err(|error| ModelError::NoSession {
            path: path.clone(),
            reason: error.reason(),
        })?;
        let mut header = None;
        let mut replies = Vec::new();
        for entry in entries {
            match entry {
                Entry::Header(found) if header.is_none() => header = Some(found),
                Entry::Reply { reply, .. } => replies.push(reply),
                _ => {}
            }
        }
        let Some(header) = header else {
            return Err(ModelError::NoSession {
                path,
                reason: "its first line is no header; expected {\"type\":\"header\",…}".into(),
            });
        };
        if replies.is_empty() {
            return Err(ModelError::NoSession {
                path,
                reason: "it holds no reply".into(),
            });
        }
        Ok(Self {
            path,
            header,
            replies,
            next: Mutex::new(0),
        })
    }

    /// Returns the header of the recording.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Returns how many replies are still to come.
    pub fn remaining(&self) -> usize {
        let next = self.next.lock().map(|next| *next).unwrap_or(self.replies.len());
        self.replies.len().saturating_sub(next)
    }

    fn take(&self) -> Result<Reply, ModelError> {
        let exhausted = || ModelError::SessionExhausted {
            path: self.path.clone(),
            replies: self.replies.len(),
        };
        let mut next = self.next.lock().map_err(|_| exhausted())?;
        let reply = self.replies.get(*next).cloned().ok_or_else(exhausted)?;
        *next += 1;
        Ok(reply)
    }
}

impl Provider for Replay {
    fn complete<'a>(&'a self, _request: &'a Request, sink: Sink<'a>) -> BoxFuture<'a, Result<Reply, ModelError>> {
        Box::pin(async move {
            let reply = self.take()?;
            sink();
            Ok(reply)
        })
    }

    fn protocol(&self) -> Option<Protocol> {
        Some(self.header.protocol)
    }

    fn model(&self) -> String {
        self.header.model.clone()
    }

    fn replays(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn request() -> Request {
        Request {
            messages: Vec::new(),
            tools: Vec::new(),
            protocol: Protocol::Native,
            max_tokens: 1,
            temperature: None,
            chat_template_kwargs: serde_json::Map::new(),
        }
    }

    #[tokio::test]
    async fn a_hand_written_session_plays_in_order_and_then_says_that_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = session_path(folder.path(), "fix-sum", 2);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(
            &path,
            concat!(
                "{\"type\":\"header\",\"task\":\"fix-sum\",\"round\":2,\"model\":\"demo\",\"protocol\":\"native\"}\n",
                "{\"type\":\"reply\",\"content\":\"one\"}\n",
                "{\"type\":\"something-newer\",\"x\":1}\n",
                "{\"type\":\"reply\",\"calls\":[{\"name\":\"bash\",\"arguments\":{\"command\":\"ls\"}}]}\n",
                "{\"type\":\"reply\",\"cont"
            ),
        )
        .unwrap();
        let replay = Replay::find(folder.path(), "fix-sum", 2).unwrap();
        assert_eq!(replay.model(), "demo");
        assert_eq!(replay.complete(&request(), &|| {}).await.unwrap().content, "one");
        assert_eq!(
            replay.complete(&request(), &|| {}).await.unwrap().calls[0].arguments,
            "{\"command\":\"ls\"}"
        );
        assert_eq!(replay.remaining(), 0);
        let error = replay.complete(&request(), &|| {}).await.unwrap_err();
        assert!(error.to_string().contains("all its 2 replies are played"), "{error}");
    }

    #[test]
    fn a_missing_session_names_the_file_that_was_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let error = Replay::find(folder.path(), "absent", 1).unwrap_err();
        assert!(error.to_string().contains("absent/round-1.jsonl"), "{error}");
        assert!(matches!(
            Replay::find(folder.path(), "../absent", 1),
            Err(ModelError::NoSession { .. })
        ));
    }
}
