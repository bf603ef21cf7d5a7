//! Patterns of a schema, which are written for Go's regular expressions.
//!
//! Both dialects are of one family. What is told otherwise here: `\d`, `\w`, `\s` and `\b` are ASCII's in Go; in a class
//! `[`, `&&`, `--` and `~~` are characters like others; a brace that begins no repetition is one too; `\Q…\E` quotes, and
//! digits after a backslash are a character's number. What Go does not read is refused in its words: `\u`, stacked
//! repetitions and those of more than a thousand, flags other than `i`, `m`, `s` and `U`, properties of characters.

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
/// What is wrong with it, in Go's words.
pub(super) fn compile(go: &str) -> Result<Regex, String> {
    let said = |why: String| format!("error parsing regexp: {why}");
    let translated = translate(go).map_err(said)?;
    Regex::new(&translated).map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default().trim();
        said(match last.strip_prefix("error: ").unwrap_or(last) {
            "unclosed group" => format!("missing closing ): `{go}`"),
            "unopened group" => format!("unexpected ): `{go}`"),
            other => other.to_owned(),
        })
    })
}

fn translate(go: &str) -> Result<String, String> {
    let mut out = String::with_capacity(go.len() + 16);
    let mut rest = go.chars().peekable();
    // The repetition that was read last, if nothing came after it.
    let mut last = String::new();
    while let Some(c) = rest.next() {
        let mut repetition = String::new();
        match c {
            '\\' => escape(&mut rest, &mut out)?,
            '[' => class(&mut rest, &mut out)?,
            '(' if rest.peek() == Some(&'?') => group(&mut rest, &mut out)?,
            '*' | '+' | '?' => repetition.push(c),
            '{' => match begun_repetition(rest.clone()) {
                Some(text) => {
                    // The text and the brace that closes it.
                    rest.nth(text.len());
                    check_count(&text)?;
                    repetition = format!("{{{text}}}");
                }
                None => out.push_str("\\{"),
            },
            _ => out.push(c),
        }
        if !repetition.is_empty() {
            repetition.extend(rest.next_if_eq(&'?'));
            if !last.is_empty() {
                return Err(format!("invalid nested repetition operator: `{last}{repetition}`"));
            }
            out.push_str(&repetition);
        }
        last = repetition;
    }
    Ok(out)
}

/// Copies the head of a group that has flags or a name, after its opening bracket.
fn group(rest: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    let mut text = "(".to_owned();
    text.extend(rest.next());
    while let Some(c) = rest.next() {
        text.push(c);
        let named = text.starts_with("(?P");
        match c {
            'P' if text == "(?P" => {}
            '<' if text == "(?P<" => break,
            '<' if text == "(?<" && !matches!(rest.peek(), Some('=' | '!')) => break,
            'i' | 'm' | 's' | 'U' | '-' if !named => {}
            ':' | ')' if !named => break,
            _ => return Err(format!("invalid or unsupported Perl syntax: `{text}`")),
        }
    }
    out.push_str(&text);
    Ok(())
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
fn escape(rest: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    let Some(c) = rest.next() else {
        return Err("trailing backslash at end of expression: ``".to_owned());
    };
    match (c, letter_class(c)) {
        (_, Some((characters, negated))) => {
            let not = if negated { "^" } else { "" };
            out.push_str(&format!("[{not}{characters}]"));
        }
        ('b', _) => out.push_str("(?-u:\\b)"),
        ('B', _) => out.push_str("(?-u:\\B)"),
        ('A' | 'z', _) => out.extend(['\\', c]),
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
        _ => plain_escape(c, rest, out)?,
    }
    Ok(())
}

/// Properties of characters that only the other dialect knows.
const PROPERTIES: [&str; 12] = [
    "Alphabetic",
    "ASCII",
    "Assigned",
    "Dash",
    "Emoji",
    "Hex_Digit",
    "ID_Continue",
    "ID_Start",
    "Lowercase",
    "Math",
    "Uppercase",
    "White_Space",
];

/// Writes an escape that stands for a character, or for those of a script or category.
fn plain_escape(c: char, rest: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    let digit = |c: &char| ('0'..='7').contains(c);
    match c {
        'x' | 'p' | 'P' => {
            let mut text = format!("\\{c}");
            if rest.peek() == Some(&'{') {
                for c in rest.by_ref() {
                    text.push(c);
                    if c == '}' {
                        break;
                    }
                }
            } else {
                text.extend(rest.by_ref().take(if c == 'x' { 2 } else { 1 }));
            }
            let name = text.get(3..).unwrap_or_default().trim_matches(['^', '}']);
            if c != 'x' && (name.contains(['=', ':']) || PROPERTIES.contains(&name)) {
                return Err(format!("invalid character class range: `{text}`"));
            }
            out.push_str(&text);
        }
        'a' | 'f' | 'n' | 'r' | 't' | 'v' => out.extend(['\\', c]),
        // One digit that is not zero would be a reference to a group.
        '0'..='7' if c == '0' || rest.peek().is_some_and(digit) => {
            let mut number = c.to_digit(8).unwrap_or(0);
            for _ in 0..2 {
                if let Some(more) = rest.next_if(digit) {
                    number = number * 8 + more.to_digit(8).unwrap_or(0);
                }
            }
            out.push_str(&format!("\\x{{{number:X}}}"));
        }
        _ if c.is_ascii() && !c.is_ascii_alphanumeric() => out.push_str(&format!("\\x{{{:X}}}", u32::from(c))),
        _ => return Err(format!("invalid escape sequence: `\\{c}`")),
    }
    Ok(())
}

/// Returns what stands before the closing brace of `n}`, `n,}` or `n,m}`, if a brace is followed by one of these.
fn begun_repetition(mut rest: Peekable<Chars<'_>>) -> Option<String> {
    let mut text = String::new();
    while let Some(c) = rest.next_if(|c| c.is_ascii_digit() || *c == ',') {
        text.push(c);
    }
    let (least, most) = text.split_once(',').unwrap_or((&text, ""));
    (!least.is_empty() && !most.contains(',') && rest.next() == Some('}')).then_some(text)
}

/// Refuses to repeat more than a thousand times, or more often at least than at most.
fn check_count(text: &str) -> Result<(), String> {
    let count = |text: &str| text.parse().unwrap_or(u32::MAX);
    let (least, most) = match text.split_once(',') {
        None => (count(text), count(text)),
        Some((least, "")) => (count(least), count(least)),
        Some((least, most)) => (count(least), count(most)),
    };
    if least > most || most > 1000 {
        return Err(format!("invalid repeat count: `{{{text}}}`"));
    }
    Ok(())
}

/// Translates a class after its opening bracket.
fn class(rest: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    let whole: String = rest.clone().collect();
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
                plain_escape(letter, rest, out)?;
            }
            _ => {
                member(c, rest, out)?;
                let mut ahead = rest.clone();
                if ahead.next() == Some('-') && ahead.peek().is_some_and(|c| *c != ']') {
                    rest.next();
                    out.push('-');
                    if let Some(end) = rest.next() {
                        if c != '\\' && end != '\\' && end < c {
                            return Err(format!("invalid character class range: `{c}-{end}`"));
                        }
                        member(end, rest, out)?;
                    }
                }
            }
        }
        first = false;
    }
    Err(format!("missing closing ]: `[{whole}`"))
}

/// Copies one character of a class, so that it means itself.
fn member(c: char, rest: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    match c {
        '\\' => match rest.next() {
            Some(escaped) => plain_escape(escaped, rest, out)?,
            None => return Err("trailing backslash at end of expression: ``".to_owned()),
        },
        '[' | ']' | '&' | '~' | '-' | '^' => out.push_str(&format!("\\x{{{:X}}}", u32::from(c))),
        _ => out.push(c),
    }
    Ok(())
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
            (r"^\07\101$", "\u{7}A", true),
            (r"^\<\>\/\_$", "<>/_", true),
            (r"(?i)^(?P<n>a)(?<m>b)(?:c)(?s-m:.)$", "ABc\n", true),
            (r"^a+?b*?c??d{2}?$", "abcdd", true),
            (r"\Aa\z", "a", true),
            (r"^a{$", "a{", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(compile(pattern).unwrap().is_match(text), expected, "{pattern} {text}");
        }
        for wrong in ["[a--]", "[z-a", "\\", "[\\"] {
            assert!(compile(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_go_does_not_read_is_refused_in_its_words() {
        let table = [
            ("x[a", "missing closing ]: `[a`"),
            ("[[:odd:]]", "invalid character class range: `[:odd:]`"),
            ("[z-a]", "invalid character class range: `z-a`"),
            ("(a", "missing closing ): `(a`"),
            ("a)", "unexpected ): `a)`"),
            ("a{2,1}", "invalid repeat count: `{2,1}`"),
            ("a{0,1001}", "invalid repeat count: `{0,1001}`"),
            ("a++", "invalid nested repetition operator: `++`"),
            ("a+?*", "invalid nested repetition operator: `+?*`"),
            (r"\u0061", r"invalid escape sequence: `\u`"),
            (r"(a)\1", r"invalid escape sequence: `\1`"),
            (r"[\h]", r"invalid escape sequence: `\h`"),
            (r"\p{Alphabetic}", r"invalid character class range: `\p{Alphabetic}`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?x)a", "invalid or unsupported Perl syntax: `(?x`"),
            ("(?R)a", "invalid or unsupported Perl syntax: `(?R`"),
        ];
        for (pattern, why) in table {
            assert_eq!(
                compile(pattern).unwrap_err(),
                format!("error parsing regexp: {why}"),
                "{pattern}"
            );
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
