//! Query parameters.

use std::num::IntErrorKind;

use crate::admission::schema::format::wrong_duration;
use crate::status::{ApiError, unsupported};

/// The parameters of one request.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string.
    pub fn parse(text: &str) -> Query {
        let readable = text.split('&').filter(|pair| is_readable(pair));
        let pairs = readable.flat_map(|pair| url::form_urlencoded::parse(pair.as_bytes()).into_owned());
        Query(pairs.collect())
    }

    /// Returns a parameter that is given and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Tells whether a parameter is given, be it without a value.
    pub fn is_given(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// Returns all that is given for a parameter.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let given = self.0.iter().filter(|(key, _)| key == name);
        given.map(|(_, value)| value.as_str()).collect()
    }

    /// Tells whether a parameter is set: `true`, `1`, or given without a value.
    pub fn flag(&self, name: &str) -> bool {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .is_some_and(|(_, value)| !matches!(value.as_str(), "false" | "0"))
    }

    /// Returns a parameter that is a whole number.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|error: std::num::ParseIntError| {
                    let why = match error.kind() {
                        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
                        _ => "invalid syntax",
                    };
                    ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
                })
            })
            .transpose()
    }

    /// Returns a parameter that is a number; a negative one counts as none.
    pub fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        Ok(self.integer(name)?.and_then(|number| u64::try_from(number).ok()))
    }

    /// Returns the version that is asked for, or what is wrong with it.
    pub fn version(&self) -> Result<Option<u64>, String> {
        self.get("resourceVersion")
            .map(|text| {
                text.parse().map_err(|_| {
                    format!(
                        "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
                    )
                })
            })
            .transpose()
    }

    /// Refuses a `timeout` that is none; what is asked here is answered long before any.
    pub fn check_timeout(&self) -> Result<(), ApiError> {
        let wrong = self.get("timeout").and_then(wrong_duration);
        match wrong {
            Some(why) if !self.flag("watch") => Err(ApiError::bad_request(format!(
                "invalid timeout specified in the request URL - {why}"
            ))),
            _ => Ok(()),
        }
    }

    /// Tells whether the write is to be carried out or only tried; `options` names the
    /// kind of the request's options in errors.
    pub fn dry_run(&self, options: &str) -> Result<bool, ApiError> {
        let mut dry = false;
        let given = self.all("dryRun");
        for value in &given {
            match *value {
                "All" => dry = true,
                _ => {
                    return Err(ApiError::options(
                        options,
                        unsupported("dryRun", serde_json::json!(given), &["All"]),
                    ));
                }
            }
        }
        Ok(dry)
    }
}

/// Tells whether a pair can be read: one with a semicolon or a percent sign that begins no character is passed over, as
/// Go's parser does.
fn is_readable(pair: &str) -> bool {
    let encoded = |rest: &str| {
        rest.get(..2)
            .is_some_and(|pair| pair.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    !pair.contains(';') && pair.split('%').skip(1).all(encoded)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parameters_are_decoded_and_checked() {
        let query = Query::parse("watch&labelSelector=a%3Db&limit=5&x=&timeoutSeconds=-1&allow=0");
        assert!(query.flag("watch") && !query.flag("allow") && !query.flag("none"));
        assert_eq!(query.get("labelSelector"), Some("a=b"));
        assert_eq!(query.get("x"), None);
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert_eq!(query.integer("timeoutSeconds").unwrap(), Some(-1));
        assert_eq!(query.number("timeoutSeconds").unwrap(), None);
        let passed_over = Query::parse("a=%zz&b=x;y&c=%4&d=%41");
        assert_eq!(
            ["a", "b", "c", "d"].map(|name| passed_over.get(name)),
            [None, None, None, Some("A")]
        );
        let large = Query::parse("limit=99999999999999999999").integer("limit").unwrap_err();
        assert!(large.message.ends_with("value out of range"), "{}", large.message);
        assert_eq!(query.number("labelSelector").unwrap_err().code, 400);
        assert!(Query::parse("dryRun=All").dry_run("CreateOptions").unwrap());
        assert!(Query::parse("dryRun=Some").dry_run("CreateOptions").is_err());
        assert!(Query::parse("dryRun=").dry_run("CreateOptions").is_err());
        assert!(Query::parse("pretty=").is_given("pretty") && !Query::parse("x").is_given("pretty"));
        for (text, wrong) in [
            ("timeout=10s", None),
            ("timeout=", None),
            ("timeout=abc&watch=true", None),
            ("timeout=abc", Some("time: invalid duration \"abc\"")),
            ("timeout=1", Some("time: missing unit in duration \"1\"")),
            ("timeout=1x", Some("time: unknown unit \"x\" in duration \"1x\"")),
        ] {
            let told = Query::parse(text).check_timeout().err().map(|error| error.message);
            let wanted = wrong.map(|why| format!("invalid timeout specified in the request URL - {why}"));
            assert_eq!(told, wanted, "{text}");
        }
    }
}
