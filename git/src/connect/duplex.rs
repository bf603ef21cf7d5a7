//! A two-way stream with a watchdog: whatever the other side does, reads and writes end by the time limit.

use std::{
    io::{self, Read, Write},
    sync::{Arc, Condvar, Mutex},
    time::Instant,
};

use super::session::{Failure, Session};
use crate::lock;

/// Ends a connection from another thread.
type Abort = Box<dyn Fn() + Send + Sync>;

struct State {
    last: Instant,
    done: bool,
}

struct Watch {
    state: Mutex<State>,
    changed: Condvar,
    session: Arc<Session>,
    abort: Abort,
}

/// What both halves keep alive. When both are gone, the watchdog ends and the connection is closed.
struct Guard {
    watch: Arc<Watch>,
    close: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(close) = lock(&self.close).take() {
            close();
        }
        lock(&self.watch.state).done = true;
        self.watch.changed.notify_all();
    }
}

/// The reading half.
pub(crate) struct Reader {
    inner: Box<dyn Read + Send>,
    guard: Arc<Guard>,
}

/// The writing half.
pub(crate) struct Writer {
    inner: Box<dyn Write + Send>,
    guard: Arc<Guard>,
}

/// Joins two halves under the session's time limits. `abort` must make both halves fail at once; `close` runs when
/// both are dropped.
pub(crate) fn watched(
    session: &Arc<Session>,
    reader: Box<dyn Read + Send>,
    writer: Box<dyn Write + Send>,
    abort: Abort,
    close: Box<dyn FnOnce() + Send>,
) -> io::Result<(Reader, Writer)> {
    let watch = Arc::new(Watch {
        state: Mutex::new(State {
            last: Instant::now(),
            done: false,
        }),
        changed: Condvar::new(),
        session: session.clone(),
        abort,
    });
    let watched = watch.clone();
    std::thread::Builder::new()
        .name("git-watchdog".into())
        .spawn(move || watched.run())?;
    let guard = Arc::new(Guard {
        watch,
        close: Mutex::new(Some(close)),
    });
    Ok((
        Reader {
            inner: reader,
            guard: guard.clone(),
        },
        Writer { inner: writer, guard },
    ))
}

impl Watch {
    fn run(&self) {
        let mut state = lock(&self.state);
        while !state.done {
            let until = self.session.deadline.min(state.last + self.session.idle);
            let now = Instant::now();
            if now >= until {
                drop(state);
                self.session.record(Failure::Timeout);
                (self.abort)();
                return;
            }
            let waited = self.changed.wait_timeout(state, until - now);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    fn progress(&self) {
        lock(&self.state).last = Instant::now();
    }
}

impl Guard {
    fn after<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if self.watch.session.timed_out() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the time limit passed"));
        }
        self.watch.progress();
        result
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.inner.read(buffer);
        self.guard.after(result)
    }
}

impl Write for Writer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let result = self.inner.write(buffer);
        self.guard.after(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.inner.flush();
        self.guard.after(result)
    }
}
