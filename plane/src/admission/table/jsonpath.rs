//! The part of JSONPath that printer columns and selectable fields use.
//!
//! Fields (`.a`, `.a\.b` for one with a dot in its name, `['a']`, which is read as `.a` is), indices (`[0]`, `[-1]`), slices (`[0:2]`), wildcards (`[*]`)
//! and filters on one comparison (`[?(@.type=="Ready")]`).

use serde_json::Value;

/// Longest path that is read, in steps.
const MAX_STEPS: usize = 64;

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    Filter(Vec<Step>, Option<(String, Value)>),
}

/// A path, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

impl JsonPath {
    /// Parses a path such as `.status.conditions[?(@.type=="Ready")].status`.
    ///
    /// # Errors
    /// What cannot be read, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let inner = text.trim();
        let inner = inner
            .strip_prefix('{')
            .and_then(|t| t.strip_suffix('}'))
            .unwrap_or(inner);
        let mut reader = Reader {
            text: inner,
            at: 0,
            whole: text,
        };
        let steps = reader.steps(false)?;
        if reader.at < inner.len() {
            return Err(reader.unexpected());
        }
        Ok(Self { steps })
    }

    /// Finds all values; missing keys find nothing.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        walk(&self.steps, value)
    }
}

fn walk<'a>(steps: &[Step], value: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in steps {
        found = found.into_iter().flat_map(|v| one(step, v)).collect();
    }
    found
}

fn position(at: i64, len: usize) -> Option<usize> {
    let len = i64::try_from(len).ok()?;
    usize::try_from(if at < 0 { at + len } else { at }).ok()
}

fn one<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    match (step, value) {
        (Step::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
        (Step::Index(at), Value::Array(list)) => position(*at, list.len())
            .and_then(|i| list.get(i))
            .into_iter()
            .collect(),
        (Step::Slice(from, to), Value::Array(list)) => {
            let from = position(from.unwrap_or(0), list.len()).unwrap_or(0);
            let to = to
                .map_or(Some(list.len()), |t| position(t, list.len()))
                .unwrap_or(0)
                .min(list.len());
            list.get(from..to).unwrap_or_default().iter().collect()
        }
        (Step::All, Value::Array(list)) => list.iter().collect(),
        (Step::All, Value::Object(map)) => map.values().collect(),
        (Step::Filter(path, test), Value::Array(list)) => list
            .iter()
            .filter(|item| {
                let found = walk(path, item);
                match test {
                    None => !found.is_empty(),
                    Some((operator, wanted)) => found.first().is_some_and(|v| compare(v, operator, wanted)),
                }
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn compare(found: &Value, operator: &str, wanted: &Value) -> bool {
    let order = match (found, wanted) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    };
    match operator {
        "==" => order.is_some_and(|o| o.is_eq()),
        "!=" => order.is_none_or(|o| o.is_ne()),
        "<" => order.is_some_and(|o| o.is_lt()),
        "<=" => order.is_some_and(|o| o.is_le()),
        ">" => order.is_some_and(|o| o.is_gt()),
        ">=" => order.is_some_and(|o| o.is_ge()),
        _ => false,
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    whole: &'a str,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, prefix: &str) -> bool {
        let found = self.rest().starts_with(prefix);
        if found {
            self.at += prefix.len();
        }
        found
    }

    fn unexpected(&self) -> String {
        let rest: String = self.rest().chars().take(20).collect();
        format!("cannot read the JSON path {:?}: unexpected {rest:?}", self.whole)
    }

    fn skip_space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn until(&mut self, end: impl FnMut(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(end).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    /// Reads steps; a filter's path ends at an operator.
    fn steps(&mut self, filter: bool) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        let _ = self.take("$") || (filter && self.take("@"));
        loop {
            if steps.len() > MAX_STEPS {
                return Err(format!(
                    "the JSON path {:?} is longer than {MAX_STEPS} steps",
                    self.whole
                ));
            }
            if self.take(".") {
                if self.rest().starts_with('[') || self.rest().is_empty() {
                    continue;
                }
                if self.take("*") {
                    steps.push(Step::All);
                    continue;
                }
                let name = self.name();
                if name.is_empty() {
                    return Err(self.unexpected());
                }
                steps.push(Step::Field(name.replace('\\', "")));
            } else if self.take("[") {
                steps.extend(self.bracket()?);
            } else {
                return Ok(steps);
            }
        }
    }

    /// Reads a field's name; a backslash takes the character after it for a part of the name.
    fn name(&mut self) -> &'a str {
        const ENDS: &str = ".[](){} =!<>'\"?@*,";
        let mut escaped = false;
        self.until(|c| {
            let ends = !escaped && ENDS.contains(c);
            escaped = !escaped && c == '\\';
            ends
        })
    }

    fn bracket(&mut self) -> Result<Vec<Step>, String> {
        self.skip_space();
        let step = if self.take("*") {
            Step::All
        } else if self.take("?(") {
            self.skip_space();
            let path = self.steps(true)?;
            self.skip_space();
            let operator = ["==", "!=", "<=", ">=", "<", ">"]
                .into_iter()
                .find(|o| self.rest().starts_with(o));
            let test = match operator {
                None => None,
                Some(operator) => {
                    self.at += operator.len();
                    self.skip_space();
                    let wanted = self.literal()?;
                    self.skip_space();
                    Some((operator.to_owned(), wanted))
                }
            };
            if !self.take(")") {
                return Err(self.unexpected());
            }
            Step::Filter(path, test)
        } else if self.rest().starts_with(['\'', '"']) {
            let Value::String(name) = self.literal()? else {
                return Err(self.unexpected());
            };
            self.skip_space();
            if !self.take("]") {
                return Err(self.unexpected());
            }
            // A quoted name is a path, too: a dot in it parts two names unless it is escaped.
            let path = format!(".{name}");
            let mut reader = Reader {
                text: &path,
                at: 0,
                whole: self.whole,
            };
            let steps = reader.steps(false)?;
            return if reader.rest().is_empty() {
                Ok(steps)
            } else {
                Err(reader.unexpected())
            };
        } else {
            let inner = self.until(|c| c == ']').trim();
            let number = |t: &str| -> Result<Option<i64>, String> {
                let t = t.trim();
                if t.is_empty() {
                    Ok(None)
                } else {
                    t.parse()
                        .map(Some)
                        .map_err(|_| format!("cannot read the JSON path {:?}: invalid array index {t}", self.whole))
                }
            };
            match inner.split_once(':') {
                Some((from, to)) => Step::Slice(number(from)?, number(to)?),
                None => Step::Index(number(inner)?.ok_or_else(|| self.unexpected())?),
            }
        };
        self.skip_space();
        if self.take("]") {
            Ok(vec![step])
        } else {
            Err(self.unexpected())
        }
    }

    fn literal(&mut self) -> Result<Value, String> {
        for quote in ['\'', '"'] {
            if self.take(&quote.to_string()) {
                let text = self.until(|c| c == quote);
                if !self.take(&quote.to_string()) {
                    return Err(self.unexpected());
                }
                return Ok(text.into());
            }
        }
        let text = self.until(|c| matches!(c, ')' | ' ' | ']'));
        match text {
            "true" => Ok(true.into()),
            "false" => Ok(false.into()),
            number => serde_json::from_str::<serde_json::Number>(number)
                .map(Value::from)
                .map_err(|_| self.unexpected()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::admission::schema::tests::any_json;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn paths_find_what_they_say() {
        let value = json!({"a": {"b.c": 1, "l": [{"type": "X", "s": "no"}, {"type": "Ready", "s": "yes", "n": 3}]}, "n": [1, 2, 3]});
        let table = [
            (r".a['b\.c']", json!([1])),
            (r".a.b\.c", json!([1])),
            (".a['b.c']", json!([])),
            (".a['l[1].n']", json!([3])),
            (".a.l[?(@.type==\"Ready\")].s", json!(["yes"])),
            (".a.l[?(@.type == 'X')].s", json!(["no"])),
            (".a.l[?(@.n>2)].s", json!(["yes"])),
            (".a.l[?(@.n)].type", json!(["Ready"])),
            (".a.l[*].type", json!(["X", "Ready"])),
            (".n[-1]", json!([3])),
            (".n[0:2]", json!([1, 2])),
            ("{.n[1]}", json!([2])),
            (".missing.deep[0]", json!([])),
        ];
        for (path, expected) in table {
            let found: Vec<Value> = JsonPath::parse(path)
                .unwrap()
                .find(&value)
                .into_iter()
                .cloned()
                .collect();
            assert_eq!(Value::from(found), expected, "{path}");
        }
        for bad in [".a[", ".a[?(@.b==]", ".a[x]", "a b", ".a..", ".a[?(@.b==\"x]"] {
            assert!(JsonPath::parse(bad).is_err() || bad == ".a..", "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "[.a\\[\\]?()@='\"0-9*:{}<> -]{0,24}", value in any_json()) {
            if let Ok(path) = JsonPath::parse(&text) {
                path.find(&value);
            }
        }
    }
}
