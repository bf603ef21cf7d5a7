//! Text that a model, a program, a repository or a server wrote, made inert: nothing in it steers a terminal or makes a
//! line read as something else.

/// Characters of a line that a commit status can show.
pub const DESCRIPTION_CHARS: usize = 140;

/// Removes escape sequences, control, direction and invisible characters; tabs and line ends stay, and a carriage return
/// ends a line.
pub fn printable(text: &str) -> String {
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
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Makes one printable line of at most `max` characters: runs of space shrink, and what was cut ends in an ellipsis.
pub fn one_line(text: &str, max: usize) -> String {
    let clean = printable(text);
    let words: Vec<&str> = clean.split_whitespace().collect();
    truncate(&words.join(" "), max)
}

/// Cuts a text to at most `max` characters, the last of them an ellipsis where something was cut.
pub fn truncate(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(max.saturating_sub(1)).collect();
    if max > 0 {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn colours_titles_and_progress_bars_become_plain_text() {
        let table = [
            ("\u{1b}[1;31merror\u{1b}[0m: no", "error: no"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]8;;http://evil\u{1b}\\link", "link"),
            ("10%\r20%\r\ndone", "10%\n20%\ndone"),
            ("a\u{202e}b\u{0}c\u{9b}31md", "abcd"),
            ("\u{1b}]unfinished\nkept", "\nkept"),
            ("\u{1b}cx\u{1b}(Bg\u{8}\u{e0041}", "xg"),
            ("tab\tand\r\nline", "tab\tand\nline"),
        ];
        for (hostile, plain) in table {
            assert_eq!(printable(hostile), plain, "{hostile:?}");
        }
    }

    #[test]
    fn a_line_is_one_and_says_where_it_was_cut() {
        assert_eq!(one_line("  a\n\tb\u{1b}[31mc\u{202e}d ", 140), "a bcd");
        assert_eq!(one_line("ééééé", 3), "éé…");
        assert_eq!(one_line("abcdef", 0), "");
    }

    proptest! {
        #[test]
        fn what_is_printable_holds_no_control_characters_and_stays_as_it_is(text in any::<String>()) {
            let clean = printable(&text);
            prop_assert!(clean.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
            prop_assert!(!clean.chars().any(is_invisible));
            prop_assert_eq!(printable(&clean), clean.clone());
        }

        #[test]
        fn a_line_is_never_longer_than_asked(text in any::<String>(), max in 0usize..200) {
            let line = one_line(&text, max);
            prop_assert!(line.chars().count() <= max);
            prop_assert!(!line.contains('\n'));
        }
    }
}
