//! Ends of hostile text: cleaned of control sequences, cut at character boundaries.

use schemas::inert;

/// Cleans what a program printed; invalid UTF-8 becomes U+FFFD.
pub fn clean(bytes: &[u8]) -> String {
    inert::printable(&String::from_utf8_lossy(bytes))
}

/// Returns at most `max` bytes of the end of `text`, cut at a character boundary and, where that
/// loses little, at the start of a line.
pub fn last(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let mut start = text.len() - max;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let end = &text[start..];
    match end.find('\n') {
        Some(newline) if newline < end.len() / 3 => &end[newline + 1..],
        _ => end,
    }
}

/// Returns at most `max` bytes of the beginning of `text`, cut at a character boundary.
pub fn first(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Makes one printable line of hostile text, at most `max` bytes.
pub fn line(text: &str, max: usize) -> String {
    let cleaned = clean(text.as_bytes()).replace(['\n', '\t'], " ");
    first(cleaned.trim(), max).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_text_is_told_from_what_is() {
        assert_eq!(clean(&[0xff, b'x', 0x1b, b'[', b'm']), "\u{fffd}x");
    }

    proptest! {
        #[test]
        fn cuts_keep_to_their_limit(text in "\\PC{0,80}", max in 0_usize..100) {
            prop_assert!(last(&text, max).len() <= max.max(text.len().min(max)));
            prop_assert!(first(&text, max).len() <= max);
            prop_assert!(text.ends_with(last(&text, max)));
            prop_assert!(text.starts_with(first(&text, max)));
        }
    }
}
