//! Patterns of a schema, which are written for Go's regular expressions.
//!
//! Both dialects are of one family. What is told otherwise here: `\d`, `\w`, `\s` and `\b` are ASCII's in Go; in a class
//! `[`, `&&`, `--` and `~~` are characters like others; a brace that begins no repetition is one too; `\Q…\E` quotes.

use std::iter::Peekable;
use std::str::Chars;

use regex::Regex;

/// Names of classes that are written `[:name:]`.
const NAMED: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

/// Compiles a pattern as Go reads it.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn compile(go: &str) -> Result<Regex, String> {
    let last_line = |error: regex::Error| error.to_string().lines().last().unwrap_or_default().trim().to_owned();
    Regex::new(&translate(go)?).map_err(last_line)
}

fn translate(go: &str) -> Result<String, String> {
    let mut out = String::with_capacity(go.len() + 16);
    let mut rest = go.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => escape(&mut rest, &mut out),
            '[' => class(&mut rest, &mut out)?,
            '{' if !begins_repetition(rest.clone()) => out.push_str("\\{"),
            _ => out.push(c),
        }
    }
    Ok(out)
}

/// The characters of a class that a letter stands for, and whether it stands for all others.
fn letter_class(letter: char) -> Option<(&'static str, bool)> {
    let characters = match letter.to_ascii_lowercase() {
        'd' => "0-9",
        'w' => "0-9A-Za-z_",
        's' => "\\t\\n\\f\\r ",
        _ => return None,
    };
    Some((characters, letter.is_ascii_uppercase()))
}

/// Translates what follows a backslash outside of a class.
fn escape(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    let Some(c) = rest.next() else {
        out.push('\\');
        return;
    };
    match (c, letter_class(c)) {
        (_, Some((characters, negated))) => {
            let not = if negated { "^" } else { "" };
            out.push_str(&format!("[{not}{characters}]"));
        }
        ('b', _) => out.push_str("(?-u:\\b)"),
        ('Q', _) => {
            let mut quoted = String::new();
            while let Some(c) = rest.next() {
                if c == '\\' && rest.peek() == Some(&'E') {
                    rest.next();
                    break;
                }
                quoted.push(c);
            }
            out.push_str(&regex::escape(&quoted));
        }
        _ => plain_escape(c, rest, out),
    }
}

/// Copies an escape that both dialects read alike, with what it has in braces.
fn plain_escape(c: char, rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    out.push('\\');
    out.push(c);
    if matches!(c, 'x' | 'p' | 'P') && rest.peek() == Some(&'{') {
        for c in rest.by_ref() {
            out.push(c);
            if c == '}' {
                break;
            }
        }
    } else if c == 'x' {
        out.extend(rest.by_ref().take(2));
    } else if matches!(c, 'p' | 'P') {
        out.extend(rest.next());
    }
}

/// Tells whether a brace is followed by `n}`, `n,}` or `n,m}`.
fn begins_repetition(rest: Peekable<Chars<'_>>) -> bool {
    let text: String = rest
        .take_while(|c| *c != '}' && (c.is_ascii_digit() || *c == ','))
        .collect();
    let (least, most) = text.split_once(',').unwrap_or((&text, ""));
    !least.is_empty() && !most.contains(',')
}

/// Translates a class after its opening bracket.
fn class(rest: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    out.push('[');
    if rest.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let mut first = true;
    while let Some(c) = rest.next() {
        match c {
            ']' if !first => {
                out.push(']');
                return Ok(());
            }
            '[' if rest.peek() == Some(&':') && named(rest, out)? => {}
            '\\' if rest.peek().is_some_and(|letter| letter_class(*letter).is_some()) => {
                let letter = rest.next().and_then(letter_class);
                match letter {
                    Some((characters, true)) => out.push_str(&format!("[^{characters}]")),
                    Some((characters, false)) => out.push_str(characters),
                    None => {}
                }
            }
            '\\' if matches!(rest.peek(), Some('p' | 'P')) => {
                let letter = rest.next().unwrap_or('p');
                plain_escape(letter, rest, out);
            }
            _ => {
                member(c, rest, out);
                let mut ahead = rest.clone();
                if ahead.next() == Some('-') && ahead.peek().is_some_and(|c| *c != ']') {
                    rest.next();
                    out.push('-');
                    if let Some(end) = rest.next() {
                        member(end, rest, out);
                    }
                }
            }
        }
        first = false;
    }
    Err("missing closing ]".to_owned())
}

/// Copies one character of a class, so that it means itself.
fn member(c: char, rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    match c {
        '\\' => match rest.next() {
            Some(escaped) => plain_escape(escaped, rest, out),
            None => out.push('\\'),
        },
        '[' | ']' | '&' | '~' | '-' | '^' => out.push_str(&format!("\\x{{{:X}}}", u32::from(c))),
        _ => out.push(c),
    }
}

/// Copies `[:name:]` after its bracket; tells whether it is one.
fn named(rest: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<bool, String> {
    let text: String = rest.clone().skip(1).collect();
    let Some((name, _)) = text.split_once(":]") else {
        return Ok(false);
    };
    if !NAMED.contains(&name.strip_prefix('^').unwrap_or(name)) {
        return Err(format!("invalid character class range: `[:{name}:]`"));
    }
    out.push_str(&format!("[:{name}:]"));
    // The colon, the name, and the end.
    rest.nth(name.chars().count() + 2);
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        let table = [
            (r"^\d+$", "123", true),
            (r"^\d+$", "१२३", false),
            (r"^\D$", "१", true),
            (r"^\w+$", "aZ_9", true),
            (r"^\w$", "é", false),
            (r"^\s$", "\u{a0}", false),
            (r"^\s\S$", "\tx", true),
            (r"\bx\b", "éxé", true),
            (r"\bx\b", "axa", false),
            (r"^[\d\-_]+$", "1-_", true),
            (r"^[\d]+$", "१", false),
            (r"^[^\D]+$", "12", true),
            (r"^[\w.]+$", "é", false),
            (r"^[[]$", "[", true),
            (r"^[a&&b]+$", "a&b", true),
            (r"^[a-c&&b]+$", "c", true),
            (r"^[+--]+$", "+,-", true),
            (r"^[+--]+$", ".", false),
            (r"^[a~~b]+$", "a~b", true),
            (r"^[]a]+$", "a]", true),
            (r"^[^]a]+$", "b", true),
            (r"^[a-]+$", "a-", true),
            (r"^[\d-z]+$", "1-z", true),
            (r"^[[:alpha:]-]+$", "a-", true),
            (r"^[[:^digit:]]+$", "a", true),
            (r"^[\]\[]+$", "[]", true),
            (r"^\[a\]$", "[a]", true),
            (r"^a{2,3}$", "aaa", true),
            (r"^a{2}$", "aa", true),
            (r"^a{,3}$", "a{,3}", true),
            (r"^{x}$", "{x}", true),
            (r"^\Qa.b[\E+$", "a.b[[", true),
            (r"^\x{41}\x42$", "AB", true),
            (r"^\p{Greek}\pL[\p{Greek}\pN]$", "αb1", true),
            (
                r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
                "a-b.c",
                true,
            ),
            (r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$", "1h30m", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(compile(pattern).unwrap().is_match(text), expected, "{pattern} {text}");
        }
        for wrong in ["[a", "[[:odd:]]", "[a--]", "(a", "a{2,1}", "[z-a]", "\\"] {
            assert!(compile(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_pattern(text in ".{0,20}|[\\[\\]\\\\dwsbQEpx{}&~^:a1,-]{0,20}") {
            let _ = compile(&text);
        }

        #[test]
        fn what_has_nothing_special_means_itself(text in "[a-zA-Z0-9 _:/é-]{0,20}") {
            let whole = format!("^{text}$");
            prop_assert!(compile(&whole).unwrap().is_match(&text));
        }
    }
}
