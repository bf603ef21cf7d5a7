//! Reading evidence piece by piece, without secrets: a name may be more than there is memory.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::task::spawn_blocking;

use super::redact::Redaction;
use super::{Address, Error};

/// Bytes that are held of what is read.
pub(super) const PIECE: u64 = 256 * 1024;

/// Evidence as it is read, without secrets, in pieces.
pub type Text = BoxStream<'static, Result<Bytes, Error>>;

/// Bytes of a segment.
pub(super) struct Part {
    pub(super) segment: u64,
    pub(super) range: Range<u64>,
}

/// Reads `parts` of the name of `address`, one after the other.
pub(super) fn text(store: Arc<dyn ObjectStore>, address: Address, parts: Vec<Part>, redaction: Redaction) -> Text {
    let reading = Reading {
        store,
        address,
        parts: parts.into_iter(),
        rest: 0..0,
        redaction,
    };
    let pieces = stream::try_unfold(Some(reading), async |reading| match reading {
        Some(reading) => reading.next().await.map(Some),
        None => Ok(None),
    });
    let shown = |piece: &Bytes| futures::future::ready(!piece.is_empty());
    pieces.try_filter(shown).boxed()
}

/// Evidence that is being read.
struct Reading {
    store: Arc<dyn ObjectStore>,
    address: Address,
    parts: std::vec::IntoIter<Part>,
    /// What is left of the segment that `address` names.
    rest: Range<u64>,
    redaction: Redaction,
}

impl Reading {
    /// Returns the next piece, and the reading unless that was the last.
    async fn next(mut self) -> Result<(Bytes, Option<Self>), Error> {
        while self.rest.is_empty()
            && let Some(part) = self.parts.next()
        {
            self.address.segment = part.segment;
            self.rest = part.range;
        }
        let last = self.rest.is_empty();
        let mut piece = Bytes::new();
        if !last {
            let range = self.rest.start..self.rest.end.min(self.rest.start + PIECE);
            self.rest.start = range.end;
            let read = self.store.get_range(&self.address.path(), range).await;
            piece = read.map_err(|source| Error::Store { action: "read", source })?;
        }
        let redacted = spawn_blocking(move || (self.redaction.push(&piece, last), self));
        let (shown, reading) = redacted.await.map_err(|source| Error::Broken { source })?;
        Ok((shown.into(), (!last).then_some(reading)))
    }
}
