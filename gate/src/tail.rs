//! Ends of hostile text: cleaned of control sequences, cut at character boundaries.

/// Cleans text that a program printed: escape sequences, control and direction characters go, a
/// carriage return ends a line, invalid UTF-8 becomes U+FFFD.
pub fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\u{9b}' => skip_control_sequence(&mut chars),
            '\r' => {
                if chars.peek() != Some(&'\n') {
                    out.push('\n');
                }
            }
            '\n' | '\t' => out.push(c),
            c if c.is_control() || is_invisible(c) => {}
            c => out.push(c),
        }
    }
    out
}

fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.peek() {
        Some('[') => {
            chars.next();
            skip_control_sequence(chars);
        }
        // Operating system commands and other strings end with BEL or ESC \.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            chars.next();
            let mut length = 0;
            while let Some(&c) = chars.peek() {
                // An unfinished string must not swallow what follows it.
                if c == '\n' || length > 4096 {
                    break;
                }
                chars.next();
                length += 1;
                if c == '\u{7}' || c == '\u{9c}' {
                    break;
                }
                if c == '\u{1b}' {
                    if chars.peek() == Some(&'\\') {
                        chars.next();
                    }
                    break;
                }
            }
        }
        Some('(' | ')' | '*' | '+' | '#' | '%' | ' ') => {
            chars.next();
            if chars.peek().is_some_and(|c| c.is_ascii_graphic()) {
                chars.next();
            }
        }
        Some(c) if c.is_ascii_graphic() => {
            chars.next();
        }
        _ => {}
    }
}

fn skip_control_sequence(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    while let Some(&c) = chars.peek() {
        if !('\u{20}'..='\u{7e}').contains(&c) {
            break;
        }
        chars.next();
        if ('\u{40}'..='\u{7e}').contains(&c) {
            break;
        }
    }
}

/// Tells whether a character changes how others look without being seen.
pub fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
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
    fn colours_titles_and_progress_bars_become_plain_text() {
        assert_eq!(clean(b"\x1b[1;31merror\x1b[0m: no"), "error: no");
        assert_eq!(clean(b"\x1b]0;title\x07after"), "after");
        assert_eq!(clean(b"\x1b]8;;http://evil\x1b\\link"), "link");
        assert_eq!(clean(b"10%\r20%\r\ndone"), "10%\n20%\ndone");
        assert_eq!(clean("a\u{202e}b\u{0}c\u{9b}31md".as_bytes()), "abcd");
        assert_eq!(clean(b"\x1b]unfinished\nkept"), "\nkept");
        assert_eq!(clean(&[0xff, b'x']), "\u{fffd}x");
    }

    proptest! {
        #[test]
        fn cleaned_text_holds_no_control_characters(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = clean(&bytes);
            prop_assert!(text.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
        }

        #[test]
        fn cuts_keep_to_their_limit(text in "\\PC{0,80}", max in 0_usize..100) {
            prop_assert!(last(&text, max).len() <= max.max(text.len().min(max)));
            prop_assert!(first(&text, max).len() <= max);
            prop_assert!(text.ends_with(last(&text, max)));
            prop_assert!(text.starts_with(first(&text, max)));
        }
    }
}
