//! What a server says in place of a reply: its words, and what they mean for the run.

use std::time::Duration;

use serde_json::Value;

use super::ModelError;
use crate::tools::output::one_line;

/// Codes and types by which servers say that no waiting helps: what the key may spend is spent. The status is that of a
/// rate limit, and so is the message of some, so that only these tell the two apart.
const SPENT: [&str; 10] = [
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "project_spend_limit_exceeded",
    "billing_hard_limit_reached",
    "billing_not_active",
    "exceeded_current_quota_error",
    "insufficient_user_quota",
    "budget_exceeded",
];
/// Codes and types by which servers say that the prompt is longer than the window.
const OVERFLOW: [&str; 2] = ["context_length_exceeded", "exceed_context_size_error"];

/// The words of a refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong, on one line.
    pub message: String,
    /// The status that the words themselves name.
    pub status: Option<u16>,
    /// The server's names for what is wrong: codes and types.
    names: Vec<String>,
}

impl Refusal {
    /// Reads the body of an answer: an error object in any of the shapes that servers use, or plain text.
    pub fn of_body(text: &str) -> Self {
        match serde_json::from_str::<Value>(text) {
            Ok(body) => Self::of(&body),
            Err(_) => Self::saying(one_line(text, 400)),
        }
    }

    /// Holds words of which nothing more is known.
    pub fn saying(message: String) -> Self {
        Self {
            message,
            ..Self::default()
        }
    }

    /// Reads an error object, or an object or list that holds one.
    pub fn of(body: &Value) -> Self {
        let body = body.as_array().and_then(|list| list.first()).unwrap_or(body);
        let error = body.get("error").filter(|error| !error.is_null()).unwrap_or(body);
        let levels = [error, body];
        let values = |keys: [&'static str; 2]| {
            levels
                .into_iter()
                .flat_map(move |level| keys.into_iter().filter_map(move |key| level.get(key)))
        };
        let names = values(["code", "type"]).filter_map(Value::as_str);
        let status = values(["code", "status"]).find_map(|value| {
            let number = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
            u16::try_from(number).ok().filter(|status| (400..600).contains(status))
        });
        Self {
            message: message(error),
            status,
            names: names.map(|name| name.to_ascii_lowercase()).collect(),
        }
    }

    /// Tells whether the prompt was longer than the window.
    pub fn is_overflow(&self) -> bool {
        if self.is_named(&OVERFLOW) {
            return true;
        }
        let message = self.message.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
        says(&["context", "maximum", "prompt"])
            && says(&[
                "exceed",
                "too long",
                "too large",
                "maximum context",
                "maximum prompt",
                "context length",
                "context size",
                "longer than",
                "n_ctx",
            ])
    }

    /// Returns the error that an answer of this status, with these words, is.
    pub fn into_error(self, url: String, status: u16, retry_after: Option<Duration>) -> ModelError {
        let message = self.message.clone();
        match status {
            _ if status == 402 || self.is_named(&SPENT) && !self.is_per_minute(status) => {
                ModelError::Spent { url, status, message }
            }
            401 | 403 => ModelError::Auth { url, status, message },
            400 | 413 | 422 | 500 if self.is_overflow() => ModelError::ContextOverflow { url, message },
            _ => ModelError::Status {
                url,
                status,
                message,
                retry_after,
            },
        }
    }

    /// Says whether a limit for each minute is told in the words of a spent quota, as Alibaba's servers do.
    fn is_per_minute(&self, status: u16) -> bool {
        let message = self.message.to_ascii_lowercase();
        let words = ["#token-limit", "allocated quota exceeded"];
        status == 429 && words.iter().any(|words| message.contains(words))
    }

    fn is_named(&self, names: &[&str]) -> bool {
        self.names.iter().any(|name| names.contains(&name.as_str()))
    }
}

/// Reads the words of an error object.
fn message(error: &Value) -> String {
    let text = match error {
        Value::String(text) => text.clone(),
        other => ["message", "detail", "error"]
            .iter()
            .find_map(|key| other.get(key))
            .map(|inner| match inner {
                Value::String(text) => text.clone(),
                Value::Object(_) => message(inner),
                other => other.to_string(),
            })
            .unwrap_or_else(|| other.to_string()),
    };
    one_line(&text, 400)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::model::Category;

    fn error(status: u16, body: &str) -> ModelError {
        Refusal::of_body(body).into_error("http://h".into(), status, None)
    }

    #[test]
    fn a_spent_quota_is_no_rate_limit_though_it_has_the_same_status() {
        let spent = [
            r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#,
            r#"{"error":{"message":"m","type":"insufficient_quota","code":"project_spend_limit_exceeded"}}"#,
            r#"{"error":{"message":"Your account is suspended","type":"exceeded_current_quota_error"}}"#,
            r#"{"error":{"message":"Budget has been exceeded!","type":"budget_exceeded","param":null,"code":"400"}}"#,
            r#"{"error":"no credit","code":"billing_not_active"}"#,
        ];
        for body in spent {
            let error = error(429, body);
            assert!(matches!(error, ModelError::Spent { .. }), "{body}: {error}");
            assert!(!error.is_away() && !error.retries(), "{body}");
            assert_eq!(error.category(), Category::Auth);
        }
        assert!(matches!(error(402, "Insufficient Balance"), ModelError::Spent { .. }));
        let limited = [
            r#"{"error":{"message":"Rate limit reached","type":"tokens","code":"rate_limit_exceeded"}}"#,
            // Limits of a minute may have the words of a spent quota.
            r#"[{"error":{"code":429,"message":"You exceeded your current quota","status":"RESOURCE_EXHAUSTED"}}]"#,
            r#"{"object":"error","message":"Rate limit exceeded","type":"rate_limited","code":"1300"}"#,
            r#"{"error":{"message":"You exceeded your current quota. For details, see: https://vendor.example/error-code#token-limit","type":"insufficient_quota","code":"insufficient_quota"}}"#,
            "slow down",
        ];
        for body in limited {
            let error = error(429, body);
            assert!(error.is_away() && error.retries(), "{body}: {error}");
        }
    }

    #[test]
    fn overflow_is_known_by_the_words_of_several_servers() {
        let long = [
            r#"{"error":{"code":400,"message":"request (9412 tokens) exceeds the available context size (8192 tokens), try increasing it","type":"exceed_context_size_error","n_ctx":8192}}"#,
            r#"{"error":{"message":"m","type":"invalid_request_error","code":"context_length_exceeded"}}"#,
            r#"{"object":"error","message":"This model's maximum context length is 4096 tokens. However, you requested 9000 tokens","type":"BadRequestError","code":400}"#,
            r#"{"error":{"message":"The decoder prompt (length 9000) is longer than the maximum model length of 4096.","code":400}}"#,
            r#"{"error":"the input length exceeds the context length"}"#,
            "This model's maximum prompt length is 4096 but the request contains 9000 tokens.",
            "prompt is too long: 210000 tokens > 200000 maximum",
        ];
        for body in long {
            assert!(matches!(error(400, body), ModelError::ContextOverflow { .. }), "{body}");
        }
        for body in [
            "unknown field: max_tokens",
            "input is too large to process. increase the physical batch size",
        ] {
            assert!(matches!(error(400, body), ModelError::Status { .. }), "{body}");
        }
        assert!(matches!(error(503, long[0]), ModelError::Status { .. }));
    }

    #[test]
    fn the_words_and_the_status_are_found_wherever_a_server_puts_them() {
        let cases = [
            (r#"{"error":{"message":"a","code":503}}"#, "a", Some(503)),
            (r#"{"error":"a","code":404}"#, "a", Some(404)),
            (r#"{"error":{"error":{"message":"a"}}}"#, "a", None),
            (r#"{"object":"error","message":"a","code":"400"}"#, "a", Some(400)),
            (r#"{"detail":"a"}"#, "a", None),
            (r#"[{"error":{"message":"a"}}]"#, "a", None),
            ("a\u{1b}[2J", "a", None),
            (r#"{"b":1}"#, r#"{"b":1}"#, None),
        ];
        for (body, words, status) in cases {
            let refusal = Refusal::of_body(body);
            assert_eq!((refusal.message.as_str(), refusal.status), (words, status), "{body}");
        }
        assert!(matches!(error(403, "no"), ModelError::Auth { status: 403, .. }));
    }
}
