//! Why there is no reply, and what that means for the run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Says how a failure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Category {
    /// The server is away, busy or broken.
    Unavailable,
    /// The server refuses who asks: the key, or that it spends any more.
    Auth,
    /// The server did not answer in time.
    Timeout,
    /// The server answered what no model server answers, or refuses the request's shape.
    Protocol,
    /// The conversation does not fit the served window.
    ContextOverflow,
    /// The model wrote without end, or was still writing when its turn was over.
    Endless,
    /// The model asked for more at once than anybody carries out.
    TooManyCalls,
    /// The recording is missing, unreadable or at its end.
    Recording,
}

/// Tells why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The setting of the client is wrong.
    #[error("failed to set up the model client for {url}: {reason}")]
    Setup {
        /// The base URL as configured.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// No connection.
    #[error("failed to reach the model server at {url}: {reason}; is it running, and is the address right?")]
    Unreachable {
        /// The address asked.
        url: String,
        /// What the network said.
        reason: String,
        /// Whether somebody may be there soon: nobody listens, or the way is cut. A name that is not known, or a
        /// certificate that is not trusted, is for a person to mend.
        may_come: bool,
    },
    /// The connection broke before the reply was whole.
    #[error("failed to read the whole reply from {url}: the stream was cut after {received} bytes ({reason})")]
    Cut {
        /// The address asked.
        url: String,
        /// Bytes seen.
        received: usize,
        /// How it ended.
        reason: String,
    },
    /// The key is missing or wrong.
    #[error("failed to sign in at {url}: HTTP {status} {message}; check the API key of this endpoint")]
    Auth {
        /// The address asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// What the key may spend is spent.
    #[error(
        "failed to get a reply from {url}: HTTP {status} {message}; what this key may spend is used up, and waiting does not bring it back: raise the limit or add credit, or name another key or model server"
    )]
    Spent {
        /// The address asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// The server refuses or fails.
    #[error("failed to get a reply from {url}: HTTP {status} {message}")]
    Status {
        /// The address asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server said.
        message: String,
        /// How long it asks us to wait.
        retry_after: Option<std::time::Duration>,
    },
    /// The prompt is longer than the window.
    #[error("failed to fit the conversation into the window of {url}: {message}")]
    ContextOverflow {
        /// The address asked.
        url: String,
        /// What the server said.
        message: String,
    },
    /// The server sends us elsewhere, which we do not follow with a key in hand.
    #[error("failed to get a reply from {url}: it redirects to {to}; set the base URL to the address that answers")]
    Redirected {
        /// The address asked.
        url: String,
        /// Where it points.
        to: String,
    },
    /// A web page came back.
    #[error(
        "failed to get a reply from {url}: it answered with a web page ({title}), not with JSON; is this the base URL of a model server (it usually ends in /v1)?"
    )]
    Html {
        /// The address asked.
        url: String,
        /// The page's title, or its beginning.
        title: String,
    },
    /// The answer is not what the protocol says.
    #[error("failed to understand the answer of {url}: {reason}; it began {snippet:?}")]
    Malformed {
        /// The address asked.
        url: String,
        /// What is wrong.
        reason: String,
        /// How the answer begins.
        snippet: String,
    },
    /// The turn took too long.
    #[error(
        "failed to get a whole reply from {url} within {seconds} s (requestTurnTimeoutSeconds){}",
        if *begun { "" } else { "; it had not begun: the server may still load the model, read a long prompt or serve others, and then a longer limit helps" }
    )]
    TurnTimeout {
        /// The address asked.
        url: String,
        /// The limit.
        seconds: u64,
        /// Whether the model was writing by then: the same question would take as long again.
        begun: bool,
    },
    /// Nothing came for too long.
    #[error("failed to hear from {url}: nothing came for {seconds} s")]
    Idle {
        /// The address asked.
        url: String,
        /// The limit.
        seconds: u64,
    },
    /// The reply has no end.
    #[error("failed to take the reply of {url}: it is longer than {limit} bytes")]
    TooLarge {
        /// The address asked.
        url: String,
        /// The limit.
        limit: usize,
    },
    /// The reply holds more calls than are read.
    #[error("failed to take the reply of {url}: it holds more than {limit} tool calls")]
    TooManyCalls {
        /// The address asked.
        url: String,
        /// The limit.
        limit: usize,
    },
    /// There is no recording.
    #[error("failed to open the recorded session {path}: {reason}")]
    NoSession {
        /// The file looked for.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The recording has no further reply.
    #[error(
        "failed to go on with the recorded session {path}: all its {replies} replies are played, and the run is not over"
    )]
    SessionExhausted {
        /// The file played.
        path: PathBuf,
        /// How many replies it has.
        replies: usize,
    },
}

impl ModelError {
    /// Says how this failure counts.
    pub fn category(&self) -> Category {
        match self {
            Self::Setup { .. } | Self::Unreachable { .. } | Self::Cut { .. } | Self::Redirected { .. } => {
                Category::Unavailable
            }
            Self::Auth { .. } | Self::Spent { .. } => Category::Auth,
            Self::Status { status, .. } if (400..500).contains(status) && *status != 408 && *status != 429 => {
                Category::Protocol
            }
            Self::Status { .. } => Category::Unavailable,
            Self::ContextOverflow { .. } => Category::ContextOverflow,
            Self::Html { .. } | Self::Malformed { .. } => Category::Protocol,
            Self::TurnTimeout { begun: true, .. } | Self::TooLarge { .. } => Category::Endless,
            Self::TurnTimeout { .. } | Self::Idle { .. } => Category::Timeout,
            Self::TooManyCalls { .. } => Category::TooManyCalls,
            Self::NoSession { .. } | Self::SessionExhausted { .. } => Category::Recording,
        }
    }

    /// Tells whether nobody was there who could answer, and somebody may be soon.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unreachable { may_come, .. } => *may_come,
            Self::Status { status, .. } => matches!(status, 429 | 502..=504),
            _ => false,
        }
    }

    /// Tells whether asking again may help. One broken answer among good ones is an accident of the way, like a cut one.
    ///
    /// So it may where a reply did not begin in time. To a server that loads its model or reads a long prompt the same
    /// question is no new work: what it has read of the model stands in the machine's memory and what it has read of the
    /// prompt in its cache, so that each question comes further than the one before. How long to wait for one is the
    /// Agent's to say, and how often to ask.
    pub fn retries(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Cut { .. }
            | Self::Malformed { .. }
            | Self::TurnTimeout { begun: false, .. }
            | Self::Idle { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429) || *status >= 500,
            _ => false,
        }
    }
}
