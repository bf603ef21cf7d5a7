//! One CEL rule: `x-kubernetes-validations`.

use serde_json::Value;

use super::cel::Expression;
use crate::admission::error::FieldError;

/// One rule, compiled.
#[derive(Debug)]
pub struct Rule {
    pub(super) text: String,
    pub(super) program: Expression,
    message: String,
    pub(super) message_program: Option<Expression>,
    pub(super) reason: String,
    pub(super) field_path: String,
    pub(super) optional_old: bool,
    pub(super) transition: bool,
}

impl Rule {
    /// Compiles a rule; `path` is where it stands in the CRD.
    pub(super) fn compile(rule: &Value, path: &str) -> Result<Rule, Box<FieldError>> {
        let get = |key: &str| rule.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let text = get("rule");
        if text.trim().is_empty() {
            return Err(Box::new(FieldError::required(
                format!("{path}.rule"),
                "rule is not specified",
            )));
        }
        let compile = |source: &str, key: &str| {
            Expression::compile(source).map_err(|error| {
                let words = format!("compilation failed: {error}");
                Box::new(FieldError::invalid(format!("{path}.{key}"), rule.clone(), words))
            })
        };
        let program = compile(&text, "rule")?;
        let message_expression = get("messageExpression");
        let message_program = match message_expression.trim() {
            "" => None,
            source => Some(compile(source, "messageExpression")?),
        };
        let reason = get("reason");
        let reasons = [
            "FieldValueDuplicate",
            "FieldValueForbidden",
            "FieldValueInvalid",
            "FieldValueRequired",
        ];
        if !reason.is_empty() && !reasons.contains(&reason.as_str()) {
            return Err(Box::new(FieldError::not_supported(
                format!("{path}.reason"),
                reason,
                &reasons.map(str::to_owned),
            )));
        }
        let message = get("message");
        if message.trim().contains('\n') {
            return Err(Box::new(FieldError::invalid(
                format!("{path}.message"),
                message,
                "must not contain line breaks",
            )));
        }
        if message.is_empty() && message_program.is_none() && text.contains('\n') {
            return Err(Box::new(FieldError::required(
                format!("{path}.message"),
                "message must be specified if rule contains line breaks",
            )));
        }
        let transition = program.uses("oldSelf");
        Ok(Rule {
            field_path: normal_path(&get("fieldPath")),
            optional_old: rule.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or_default(),
            text,
            program,
            message,
            message_program,
            reason,
            transition,
        })
    }

    /// Says what the rule asks for, in the words of its author.
    pub(super) fn words(&self) -> &str {
        if self.message.is_empty() {
            self.text.trim()
        } else {
            self.message.trim()
        }
    }

    /// Says that the rule failed.
    pub(super) fn default_message(&self) -> String {
        if self.message.is_empty() {
            format!("failed rule: {}", self.words())
        } else {
            self.words().to_owned()
        }
    }
}

/// Writes `.a['b.c']` as messages show it: `a[b.c]`, or `a.b` where no brackets are needed.
fn normal_path(path: &str) -> String {
    let mut out = String::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix("['") {
            let (key, after) = inner.split_once("']").unwrap_or((inner, ""));
            out.push('.');
            out.push_str(key);
            rest = after;
        } else {
            let end = rest.find("['").unwrap_or(rest.len());
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out.trim_start_matches('.').to_owned()
}
