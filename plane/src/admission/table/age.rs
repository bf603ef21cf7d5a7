//! Ages and durations, as kubectl words them.

/// Words a number of seconds: `45s`, `5m30s`, `3h12m`, `2d5h`, `400d`, `3y10d`.
pub fn human_duration(seconds: i64) -> String {
    let two = |big: i64, unit: &str, small: i64, lesser: &str| {
        if small == 0 {
            format!("{big}{unit}")
        } else {
            format!("{big}{unit}{small}{lesser}")
        }
    };
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () if days < 2920 => two(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

/// Words the time between two RFC 3339 times.
pub(super) fn between(from: &str, to: &str) -> String {
    match (from.parse::<jiff::Timestamp>(), to.parse::<jiff::Timestamp>()) {
        (Ok(from), Ok(to)) => human_duration(to.as_second().saturating_sub(from.as_second())),
        _ => "<invalid>".to_owned(),
    }
}

/// Words the time since an RFC 3339 time; `<unknown>` when there is none.
pub(super) fn age(from: &str, now: &str) -> String {
    if from.is_empty() {
        "<unknown>".to_owned()
    } else {
        between(from, now)
    }
}
