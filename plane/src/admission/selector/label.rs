//! Label selectors: equality, sets, existence.

use serde_json::Value;

use crate::admission::error::{FieldError, aggregate};
use crate::admission::names;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Equals,
    NotEquals,
    Exists,
    Absent,
    Greater,
    Less,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

/// A label selector, parsed; the empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Parses the text of `labelSelector=`.
    ///
    /// # Errors
    /// kube-apiserver's message (400).
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser {
            tokens: lex(text),
            at: 0,
        };
        let mut requirements = parser.requirements()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements })
    }

    /// Reads a `LabelSelector` object (`matchLabels`, `matchExpressions`); null selects nothing,
    /// an empty one everything.
    ///
    /// # Errors
    /// The expression that cannot be used.
    pub fn from_object(selector: &Value) -> Result<Option<Self>, String> {
        let Some(map) = selector.as_object() else {
            return Ok(None);
        };
        let mut requirements = Vec::new();
        if let Some(labels) = map.get("matchLabels").and_then(Value::as_object) {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or_default().to_owned();
                requirements.push(requirement(key.clone(), Operator::Equals, vec![value])?);
            }
        }
        for expression in map
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let key = expression
                .get("key")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            let values: Vec<String> = expression
                .get("values")
                .and_then(Value::as_array)
                .map(|l| l.iter().filter_map(Value::as_str).map(str::to_owned).collect())
                .unwrap_or_default();
            let operator = match expression.get("operator").and_then(Value::as_str).unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::Absent,
                other => {
                    return Err(format!(
                        "{} is not a valid label selector operator",
                        super::super::gofmt::quote(other)
                    ));
                }
            };
            requirements.push(requirement(key, operator, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Some(Self { requirements }))
    }

    /// Matches an object's `metadata.labels`.
    pub fn matches(&self, object: &Value) -> bool {
        self.matches_labels(&object["metadata"]["labels"])
    }

    /// Matches a map of labels; anything else is an empty one.
    pub fn matches_labels(&self, labels: &Value) -> bool {
        self.requirements
            .iter()
            .all(|r| r.matches(labels.get(&r.key).and_then(Value::as_str)))
    }

    /// Says whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl Requirement {
    fn matches(&self, label: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|w| w == v);
        let number = |v: &str| v.parse::<i64>().ok();
        match self.operator {
            Operator::In | Operator::Equals => label.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !label.is_some_and(listed),
            Operator::Exists => label.is_some(),
            Operator::Absent => label.is_none(),
            Operator::Greater | Operator::Less => {
                let bound = self.values.first().and_then(|v| number(v));
                match (label.and_then(number), bound) {
                    (Some(have), Some(bound)) if self.operator == Operator::Greater => have > bound,
                    (Some(have), Some(bound)) => have < bound,
                    _ => false,
                }
            }
        }
    }
}

fn requirement(key: String, operator: Operator, mut values: Vec<String>) -> Result<Requirement, String> {
    values.sort();
    values.dedup();
    let mut errors = Vec::new();
    let wrong = names::qualified_name(&key);
    if !wrong.is_empty() {
        errors.push(FieldError::invalid("key", key.as_str(), wrong.join("; ")));
    }
    let shown = || Value::from(values.clone());
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            errors.push(FieldError::invalid(
                "values",
                shown(),
                "for 'in', 'notin' operators, values set can't be empty",
            ));
        }
        Operator::Exists | Operator::Absent if !values.is_empty() => {
            errors.push(FieldError::invalid(
                "values",
                shown(),
                "values set must be empty for exists and does not exist",
            ));
        }
        Operator::Greater | Operator::Less => {
            for (i, value) in values.iter().enumerate() {
                if value.parse::<i64>().is_err() {
                    errors.push(FieldError::invalid(
                        format!("values[{i}]"),
                        value.as_str(),
                        "for 'Gt', 'Lt' operators, the value must be an integer",
                    ));
                }
            }
        }
        _ => {}
    }
    for (i, value) in values.iter().enumerate() {
        let wrong = names::label_value(value);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(
                format!("values[{i}][{key}]"),
                value.as_str(),
                wrong.join("; "),
            ));
        }
    }
    if errors.is_empty() {
        Ok(Requirement { key, operator, values })
    } else {
        Err(aggregate(&errors))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    End,
    Word,
    Comma,
    Open,
    Close,
    Not,
    In,
    NotIn,
    Equals,
    NotEquals,
    Greater,
    Less,
    Bad,
}

fn lex(text: &str) -> Vec<(Token, String)> {
    let special = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
    let space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let chars: Vec<char> = text.chars().take_while(|c| *c != '\0').collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        if space(c) {
            at += 1;
        } else if special(c) {
            let next = chars.get(at + 1).copied();
            let (token, literal) = match (c, next) {
                ('=', Some('=')) => (Token::Equals, "=="),
                ('=', _) => (Token::Equals, "="),
                ('!', Some('=')) => (Token::NotEquals, "!="),
                ('!', _) => (Token::Not, "!"),
                ('(', _) => (Token::Open, "("),
                (')', _) => (Token::Close, ")"),
                (',', _) => (Token::Comma, ","),
                ('>', _) => (Token::Greater, ">"),
                ('<', _) => (Token::Less, "<"),
                _ => (Token::Bad, ""),
            };
            at += literal.len().max(1);
            tokens.push((token, literal.to_owned()));
        } else {
            let start = at;
            while at < chars.len() && !special(chars[at]) && !space(chars[at]) {
                at += 1;
            }
            let word: String = chars[start..at].iter().collect();
            let token = match word.as_str() {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Word,
            };
            tokens.push((token, word));
        }
    }
    tokens.push((Token::End, String::new()));
    tokens
}

struct Parser {
    tokens: Vec<(Token, String)>,
    at: usize,
}

impl Parser {
    /// Looks at the next token; `in` and `notin` are words where a value may stand.
    fn look(&self, values: bool) -> (Token, &str) {
        let (token, text) = self
            .tokens
            .get(self.at)
            .map_or((Token::End, ""), |(t, s)| (*t, s.as_str()));
        match token {
            Token::In | Token::NotIn if values => (Token::Word, text),
            _ => (token, text),
        }
    }

    fn next(&mut self, values: bool) -> (Token, String) {
        let (token, text) = self.look(values);
        let out = (token, text.to_owned());
        self.at += 1;
        out
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, String> {
        let mut list = Vec::new();
        loop {
            match self.look(true) {
                (Token::Word | Token::Not, _) => {
                    list.push(
                        self.requirement()
                            .map_err(|e| format!("unable to parse requirement: {e}"))?,
                    );
                    match self.next(true) {
                        (Token::End, _) => return Ok(list),
                        (Token::Comma, _) => {
                            let (token, text) = self.look(true);
                            if !matches!(token, Token::Word | Token::Not) {
                                return Err(format!("found '{text}', expected: identifier after ','"));
                            }
                        }
                        (_, text) => {
                            return Err(format!("found '{text}', expected: ',' or 'end of string'"));
                        }
                    }
                }
                (Token::End, _) => return Ok(list),
                (_, text) => {
                    return Err(format!("found '{text}', expected: !, identifier, or 'end of string'"));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.next(true);
        let absent = token == Token::Not;
        if absent {
            (token, key) = self.next(true);
        }
        if token != Token::Word {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let wrong = names::qualified_name(&key);
        if !wrong.is_empty() {
            return Err(FieldError::invalid("", key, wrong.join("; ")).to_string());
        }
        if absent {
            return requirement(key, Operator::Absent, Vec::new());
        }
        if matches!(self.look(true).0, Token::End | Token::Comma) {
            return requirement(key, Operator::Exists, Vec::new());
        }
        let operator = match self.next(false) {
            (Token::In, _) => Operator::In,
            (Token::NotIn, _) => Operator::NotIn,
            (Token::Equals, _) => Operator::Equals,
            (Token::NotEquals, _) => Operator::NotEquals,
            (Token::Greater, _) => Operator::Greater,
            (Token::Less, _) => Operator::Less,
            (_, text) => {
                return Err(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt"));
            }
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.set()?,
            _ => self.exact()?,
        };
        requirement(key, operator, values)
    }

    fn exact(&mut self) -> Result<Vec<String>, String> {
        if matches!(self.look(true).0, Token::End | Token::Comma) {
            return Ok(vec![String::new()]);
        }
        match self.next(true) {
            (Token::Word, text) => Ok(vec![text]),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }

    fn set(&mut self) -> Result<Vec<String>, String> {
        let (token, text) = self.next(true);
        if token != Token::Open {
            return Err(format!("found '{text}' expected: '('"));
        }
        match self.look(true) {
            (Token::Word | Token::Comma, _) => {
                let values = self.words()?;
                match self.next(true) {
                    (Token::Close, _) => Ok(values),
                    (_, text) => Err(format!("found '{text}', expected: ')'")),
                }
            }
            (Token::Close, _) => {
                self.at += 1;
                Ok(vec![String::new()])
            }
            (_, text) => Err(format!("found '{text}', expected: ',', ')' or identifier")),
        }
    }

    fn words(&mut self) -> Result<Vec<String>, String> {
        let mut list = Vec::new();
        loop {
            match self.next(true) {
                (Token::Word, text) => {
                    list.push(text);
                    match self.look(true) {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(list),
                        (_, text) => return Err(format!("found '{text}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if list.is_empty() {
                        list.push(String::new());
                    }
                    match self.look(true).0 {
                        Token::Close => {
                            list.push(String::new());
                            return Ok(list);
                        }
                        Token::Comma => {
                            self.at += 1;
                            list.push(String::new());
                        }
                        _ => {}
                    }
                }
                (_, text) => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn selectors_match_what_they_say() {
        let labels = json!({"metadata": {"labels": {"app": "web", "tier": "front", "n": "5", "empty": ""}}});
        let table = [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app = db", false),
            ("app!=db", true),
            ("missing!=x", true),
            ("app in (web, db)", true),
            ("app in (db)", false),
            ("app notin (db,cache)", true),
            ("missing notin (x)", true),
            ("app", true),
            ("!app", false),
            ("!missing", true),
            ("n>4", true),
            ("n<5", false),
            ("empty=", true),
            ("empty in ()", true),
            ("app=web,tier=front,!x", true),
            ("in in (in)", false),
        ];
        for (text, expected) in table {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&labels), expected, "{text}");
        }
    }

    #[test]
    fn broken_selectors_are_named() {
        let table = [
            ("app in", "unable to parse requirement: found '' expected: '('"),
            ("=x", "found '=', expected: !, identifier, or 'end of string'"),
            ("a=b,", "found '', expected: identifier after ','"),
            (
                "a b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ];
        for (text, expected) in table {
            assert_eq!(LabelSelector::parse(text).unwrap_err(), expected, "{text}");
        }
        assert!(LabelSelector::parse("a=b c d").is_err());
        assert!(
            LabelSelector::parse("a=-")
                .unwrap_err()
                .contains("values[0][a]: Invalid value: \"-\"")
        );
    }

    #[test]
    fn an_object_selects_as_its_text_does() {
        let s = LabelSelector::from_object(
            &json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]}),
        );
        let s = s.unwrap().unwrap();
        assert!(s.matches_labels(&json!({"a": "b", "c": ""})));
        assert!(!s.matches_labels(&json!({"a": "b"})));
        assert_eq!(LabelSelector::from_object(&Value::Null).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,40}") {
            let _ = LabelSelector::parse(&text);
        }
        #[test]
        fn selector_like_text_is_parsed_or_refused(text in "[a-c!=<>(), in]{0,30}") {
            let _ = LabelSelector::parse(&text);
        }
    }
}
