//! Tables for people.

use schemas::inert;

/// Lays out `rows` under `head` in columns as wide as their widest cell.
pub fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}   "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Says how long ago `then` was, in the two largest units.
pub fn age(then: jiff::Timestamp, now: jiff::Timestamp) -> String {
    span(now.duration_since(then).as_secs())
}

/// Writes seconds as `12s`, `3m4s`, `5h6m` or `7d8h`.
pub fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let pair = |large: i64, big: char, small: i64, little: char| match small {
        0 => format!("{large}{big}"),
        _ => format!("{large}{big}{small}{little}"),
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => pair(seconds / 60, 'm', seconds % 60, 's'),
        3600..86400 => pair(seconds / 3600, 'h', seconds / 60 % 60, 'm'),
        _ => pair(seconds / 86400, 'd', seconds / 3600 % 24, 'h'),
    }
}

/// Writes a number of things: `1 file`, `2 files`.
pub fn count(number: i64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Makes text that somebody else wrote inert, in one line; its spaces stay.
pub fn plain(text: &str) -> String {
    inert::printable(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = render(
            &["NAME", "P"],
            &[vec!["a-long-name".into(), "x".into()], vec!["b".into(), String::new()]],
        );
        assert_eq!(text, "NAME          P\na-long-name   x\nb\n");
    }

    #[test]
    fn spans_show_the_two_largest_units() {
        let table = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (184, "3m4s"),
            (3600, "1h"),
            (18360, "5h6m"),
            (633600, "7d8h"),
        ];
        for (seconds, text) in table {
            assert_eq!(span(seconds), text);
        }
    }
}
