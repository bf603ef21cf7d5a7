//! The connections of this crate as libgit2 takes them.
//!
//! libgit2 knows transports by URL scheme for the whole process. One scheme of ours is registered; its URLs name an
//! exchange that is open at the moment, and so carry no address and no secret.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use git2::transport::{Service as Git2Service, SmartSubtransport, SmartSubtransportStream, Transport};

use super::advertised::Advertised;
use crate::{
    connect::{AnswerBody, HttpExchange, Reader, Remotes, Requested, Service, Session, Writer, spool},
    error::{Error, Result},
    lock,
    url::Scheme,
};

const SCHEME: &str = "foreman-exchange";

/// What an exchange speaks through.
#[derive(Clone)]
enum Channel {
    /// Requests and answers.
    Http(Arc<HttpExchange>),
    /// A two-way stream, opened when libgit2 asks for it.
    Duplex(Remotes, Arc<Session>),
}

static OPEN: Mutex<Option<HashMap<u64, Channel>>> = Mutex::new(None);
static NEXT: AtomicU64 = AtomicU64::new(0);

/// One exchange that libgit2 can reach while this lives.
pub(super) struct Endpoint {
    id: u64,
}

impl Endpoint {
    pub(super) fn open(remotes: &Remotes, session: &Arc<Session>) -> Result<Self> {
        register()?;
        let channel = match session.url.scheme() {
            Scheme::Http | Scheme::Https => Channel::Http(Arc::new(HttpExchange::new(remotes, session)?)),
            _ => Channel::Duplex(remotes.clone(), session.clone()),
        };
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        lock(&OPEN).get_or_insert_default().insert(id, channel);
        Ok(Endpoint { id })
    }

    pub(super) fn url(&self) -> String {
        format!("{SCHEME}://{}", self.id)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(open) = lock(&OPEN).as_mut() {
            open.remove(&self.id);
        }
    }
}

fn register() -> Result<()> {
    static DONE: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        let factory = |remote: &git2::Remote<'_>| {
            let id = remote
                .url()
                .ok()
                .and_then(|url| url.strip_prefix(SCHEME)?.strip_prefix("://")?.parse::<u64>().ok());
            let open = lock(&OPEN);
            let channel = id.and_then(|id| open.as_ref()?.get(&id).cloned());
            let channel = channel.ok_or_else(|| git2::Error::from_str("the exchange is not open"))?;
            let stateless = matches!(channel, Channel::Http(_));
            Transport::smart(remote, stateless, channel)
        };
        // SAFETY: the call must not run beside another registration or a look-up of transports. It runs once, inside
        // `OnceLock`, before the first remote of this process is connected: every connection of this crate passes here
        // first, and nothing else in the workspace uses git2's remotes.
        #[allow(unsafe_code)]
        let registered = unsafe { git2::transport::register(SCHEME, factory) };
        registered.map_err(|e| e.message().to_owned())
    });
    done.clone().map_err(|reason| Error::Invalid {
        action: "prepare libgit2",
        reason,
    })
}

impl SmartSubtransport for Channel {
    fn action(
        &self,
        _url: &str,
        action: Git2Service,
    ) -> std::result::Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        let fail = |text: String| git2::Error::new(git2::ErrorCode::GenericError, git2::ErrorClass::Net, text);
        match (self, action) {
            (Channel::Http(exchange), Git2Service::ReceivePackLs) => {
                let response = exchange
                    .send(Service::ReceivePack, Requested::Refs { version: 0 })
                    .map_err(|e| fail(e.to_string()))?;
                let answer = AnswerBody::new(exchange.clone(), response);
                Ok(Box::new(HttpStream::Refs(Advertised::new(answer, 2))))
            }
            (Channel::Http(exchange), Git2Service::ReceivePack) => {
                Ok(Box::new(HttpStream::Request(exchange.clone(), Some(spool()))))
            }
            (Channel::Duplex(remotes, session), Git2Service::ReceivePackLs) => {
                let (reader, writer) = remotes
                    .duplex(session, Service::ReceivePack, true)
                    .map_err(|e| fail(e.to_string()))?;
                let reader = Advertised::new(reader, 1);
                Ok(Box::new(DuplexStream { reader, writer }))
            }
            _ => Err(fail("libgit2 only pushes here".into())),
        }
    }

    fn close(&self) -> std::result::Result<(), git2::Error> {
        Ok(())
    }
}

struct DuplexStream {
    reader: Advertised<Reader>,
    writer: Writer,
}

impl Read for DuplexStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl Write for DuplexStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.writer.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A request that is sent when its answer is first read.
enum HttpStream {
    Request(Arc<HttpExchange>, Option<tempfile::SpooledTempFile>),
    Refs(Advertised<AnswerBody>),
    Answer(AnswerBody),
}

impl Read for HttpStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let HttpStream::Request(exchange, body) = self {
            let body = body
                .take()
                .ok_or_else(|| io::Error::other("the request failed before"))?;
            let response = exchange.send(Service::ReceivePack, Requested::Exchange { body, version: 0 })?;
            *self = HttpStream::Answer(AnswerBody::new(exchange.clone(), response));
        }
        match self {
            HttpStream::Refs(refs) => refs.read(buffer),
            HttpStream::Answer(answer) => answer.read(buffer),
            HttpStream::Request(..) => Ok(0),
        }
    }
}

impl Write for HttpStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            HttpStream::Request(_, Some(body)) => body.write(buffer),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
