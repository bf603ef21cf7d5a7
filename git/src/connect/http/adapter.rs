//! HTTP as gix wants it.

use std::{
    io::{self, BufReader, Cursor, Read, Write},
    sync::{Arc, Mutex},
};

use gix::protocol::transport::client::blocking_io::http::{GetResponse, Http, PostBodyDataKind, PostResponse};
use reqwest::blocking::Response;

use super::{AnswerBody, HttpExchange, Requested, spool};
use crate::{
    connect::{Remotes, Service, Session},
    error::Result,
    lock,
};

/// HTTP as gix wants it. A POST is sent when its answer is first read, once gix has written all of the body.
pub(in crate::connect) struct GixHttp {
    exchange: Arc<HttpExchange>,
}

impl GixHttp {
    pub(in crate::connect) fn new(remotes: &Remotes, session: &Arc<Session>) -> Result<Self> {
        Ok(GixHttp {
            exchange: Arc::new(HttpExchange::new(remotes, session)?),
        })
    }
}

/// A POST that waits for its body.
pub(in crate::connect) struct Pending {
    exchange: Arc<HttpExchange>,
    body: Option<tempfile::SpooledTempFile>,
    version: u8,
    headers: Option<Vec<u8>>,
    answer: Option<AnswerBody>,
    failed: bool,
}

impl Pending {
    fn start(&mut self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("the request failed before"));
        }
        if let Some(body) = self.body.take() {
            let sent = self.exchange.send(
                Service::UploadPack,
                Requested::Exchange {
                    body,
                    version: self.version,
                },
            );
            let response = sent.inspect_err(|_| self.failed = true)?;
            self.headers = Some(header_lines(&response));
            self.answer = Some(AnswerBody::new(self.exchange.clone(), response));
        }
        Ok(())
    }
}

fn header_lines(response: &Response) -> Vec<u8> {
    let mut lines = Vec::new();
    for (name, value) in response.headers() {
        lines.extend_from_slice(name.as_str().as_bytes());
        lines.extend_from_slice(b": ");
        lines.extend_from_slice(value.as_bytes());
        lines.push(b'\n');
    }
    lines
}

/// The headers of an answer, as lines.
pub(in crate::connect) struct Headers(Source, Cursor<Vec<u8>>);

enum Source {
    Ready,
    Pending(Arc<Mutex<Pending>>),
}

impl Read for Headers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Source::Pending(pending) = &self.0 {
            let mut pending = lock(pending);
            pending.start()?;
            self.1 = Cursor::new(pending.headers.take().unwrap_or_default());
            drop(pending);
            self.0 = Source::Ready;
        }
        self.1.read(buffer)
    }
}

/// The body of an answer to GET or POST.
pub(in crate::connect) enum AnyBody {
    Ready(AnswerBody),
    Pending(Arc<Mutex<Pending>>),
}

impl Read for AnyBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            AnyBody::Ready(body) => body.read(buffer),
            AnyBody::Pending(pending) => {
                let mut pending = lock(pending);
                pending.start()?;
                match pending.answer.as_mut() {
                    Some(answer) => answer.read(buffer),
                    None => Ok(0),
                }
            }
        }
    }
}

/// The body of a request.
pub(in crate::connect) struct RequestBody(Arc<Mutex<Pending>>);

impl Write for RequestBody {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match lock(&self.0).body.as_mut() {
            Some(body) => body.write(buffer),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Http for GixHttp {
    type Headers = BufReader<Headers>;
    type ResponseBody = BufReader<AnyBody>;
    type PostBody = RequestBody;

    fn get(
        &mut self,
        _url: &str,
        _base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> gix::Result<GetResponse<Self::Headers, Self::ResponseBody>> {
        let requested = Requested::Refs {
            version: version_of(headers),
        };
        let response = self
            .exchange
            .send(Service::UploadPack, requested)
            .map_err(gix::Error::from_error)?;
        let lines = Cursor::new(header_lines(&response));
        let body = AnyBody::Ready(AnswerBody::new(self.exchange.clone(), response));
        Ok(GetResponse {
            headers: BufReader::new(Headers(Source::Ready, lines)),
            body: BufReader::new(body),
        })
    }

    fn post(
        &mut self,
        _url: &str,
        _base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        _body: PostBodyDataKind,
    ) -> gix::Result<PostResponse<Self::Headers, Self::ResponseBody, Self::PostBody>> {
        let pending = Arc::new(Mutex::new(Pending {
            exchange: self.exchange.clone(),
            body: Some(spool()),
            version: version_of(headers),
            headers: None,
            answer: None,
            failed: false,
        }));
        Ok(PostResponse {
            post_body: RequestBody(pending.clone()),
            headers: BufReader::new(Headers(Source::Pending(pending.clone()), Cursor::default())),
            body: BufReader::new(AnyBody::Pending(pending)),
        })
    }

    fn configure(&mut self, _config: &dyn std::any::Any) -> gix::Result {
        // Everything is configured by our settings, nothing by the repository's.
        Ok(())
    }

    fn redirected_base_url(&self) -> Option<String> {
        Some(self.exchange.base_url())
    }
}

fn version_of(headers: impl IntoIterator<Item = impl AsRef<str>>) -> u8 {
    let wanted = headers
        .into_iter()
        .any(|line| line.as_ref().starts_with("Git-Protocol: version=2"));
    if wanted { 2 } else { 0 }
}
