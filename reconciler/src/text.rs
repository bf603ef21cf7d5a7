//! Text that people and forges read: one line, bounded, inert.

/// Characters that a commit status may have.
pub const DESCRIPTION_CHARS: usize = 140;

/// Makes one line of at most `max` characters: control characters become spaces, runs of space shrink.
pub fn one_line(text: &str, max: usize) -> String {
    let mut line = String::new();
    let mut count = 0;
    let mut space = false;
    for character in text.chars() {
        if character.is_whitespace() || character.is_control() {
            space = !line.is_empty();
            continue;
        }
        // Bidirectional overrides and other format characters can make a line read as something else.
        if matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
        {
            continue;
        }
        let needed = 1 + usize::from(space);
        if count + needed > max {
            if max > 0 {
                while line.chars().count() >= max {
                    line.pop();
                }
                line.push('…');
            }
            return line;
        }
        if space {
            line.push(' ');
            space = false;
        }
        line.push(character);
        count += needed;
    }
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_sequences_and_line_breaks_are_inert() {
        assert_eq!(one_line("  a\n\tb\u{1b}[31mc\u{202e}d ", 140), "a b [31mcd");
        assert_eq!(one_line("abcdef", 4), "abc…");
        assert_eq!(one_line("", 4), "");
    }

    proptest! {
        #[test]
        fn a_line_is_never_longer_than_asked(text in "\\PC{0,300}", max in 1usize..200) {
            let line = one_line(&text, max);
            prop_assert!(line.chars().count() <= max);
            prop_assert!(!line.contains('\n'));
        }
    }
}
