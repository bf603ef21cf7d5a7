//! Who writes first: while a commit's objects are being made, all else goes slower.
//!
//! A thousand new objects call for a thousand answers: admissions, tasks, statuses. On a server with a bound capacity
//! those would take half of it from the objects that are still to be made. So they have one place as long as that
//! lasts, so that nothing stands still, and all places afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

/// Other writes that are under way at once while objects of a commit are made.
const MEANWHILE: usize = 1;

/// What all writers of a process share.
pub struct Lanes {
    bulks: AtomicUsize,
    over: Notify,
    few: Semaphore,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            bulks: AtomicUsize::new(0),
            over: Notify::new(),
            few: Semaphore::new(MEANWHILE),
        }
    }
}

/// Makes other writes wait as long as it lives.
pub struct Bulk(Arc<Lanes>);

impl Drop for Bulk {
    fn drop(&mut self) {
        if self.0.bulks.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.over.notify_waiters();
        }
    }
}

impl Lanes {
    /// Begins the writes of a commit.
    pub fn begin(self: &Arc<Self>) -> Bulk {
        self.bulks.fetch_add(1, Ordering::AcqRel);
        Bulk(self.clone())
    }

    /// Waits for a place for another write; it is given back with what is returned.
    pub async fn place(&self) -> Option<SemaphorePermit<'_>> {
        let over = self.over.notified();
        tokio::pin!(over);
        // From here on its end is heard of.
        over.as_mut().enable();
        if self.bulks.load(Ordering::Acquire) == 0 {
            return None;
        }
        tokio::select! {
            permit = self.few.acquire() => permit.ok(),
            () = over => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_commits_objects_leave_few_places_and_its_end_leaves_all() {
        let lanes = Arc::new(Lanes::default());
        assert!(lanes.place().await.is_none(), "nothing else is under way");
        let bulk = lanes.begin();
        let mut held = Vec::new();
        for _ in 0..MEANWHILE {
            held.extend(lanes.place().await);
        }
        assert_eq!(held.len(), MEANWHILE);
        let mut next = Box::pin(lanes.place());
        assert!(next.as_mut().now_or_never().is_none(), "there are no more places");
        drop(held.pop());
        held.extend(next.await);
        assert_eq!(held.len(), MEANWHILE, "one was given back");
        let mut next = Box::pin(lanes.place());
        assert!(next.as_mut().now_or_never().is_none());
        drop(bulk);
        assert!(next.await.is_none(), "nobody has to wait any more");
        drop(held);
    }
}
