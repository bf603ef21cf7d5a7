//! Looking again and again, for what no watch tells of.

use std::time::{Duration, Instant};

/// Looks until something is there, and returns it; fails after `limit` with what `told` says.
pub fn until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>, told: impl Fn() -> String) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} did not come about\n{}", told());
        std::thread::sleep(Duration::from_millis(200));
    }
}
