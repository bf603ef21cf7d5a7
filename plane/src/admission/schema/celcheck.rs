//! A check of CEL rules before they run: names and fields that cannot exist.
//!
//! kube-apiserver type-checks rules when a CRD is written. This check is smaller: it refuses unknown variables, fields
//! that the schema does not declare, scalars of one type where another is wanted, and patterns that are none.

use std::collections::HashMap;

use kube_cel::cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::cel::TYPES;
use super::celvalue::escape;
use super::node::{Additional, Node};
use super::pattern;
use crate::admission::error::FieldError;

/// What is known of an expression's type.
#[derive(Clone, Copy)]
enum Known<'a> {
    /// Values of this schema; the flag marks an object's root.
    Node(&'a Node, bool),
    /// Scalars of this type.
    Scalar(&'static str),
    /// Nothing.
    Dynamic,
}

impl Known<'_> {
    /// Names the type of scalars that are of one type for sure.
    fn scalar(self) -> Option<&'static str> {
        match self {
            Known::Scalar(name) => Some(name),
            Known::Node(node, _) if node.nullable || node.int_or_string => None,
            Known::Node(node, _) => match node.kind.as_str() {
                "boolean" => Some("bool"),
                "integer" => Some("int"),
                "number" => Some("double"),
                "string" if node.format.is_empty() => Some("string"),
                _ => None,
            },
            Known::Dynamic => None,
        }
    }
}

type Scope<'a> = HashMap<String, Known<'a>>;

/// Names of functions, and namespaces of them, which rules use like variables, as they do those of types.
const GLOBAL: [&str; 14] = [
    "type",
    "optional",
    "sets",
    "math",
    "base64",
    "format",
    "ip",
    "cidr",
    "semver",
    "quantity",
    "url",
    "google",
    "strings",
    "kubernetes",
];

/// Checks every rule at and below `root`.
pub(super) fn check(root: &Node, path: &str, errors: &mut Vec<FieldError>) {
    node(root, path, true, errors);
}

fn node(at: &Node, path: &str, resource: bool, errors: &mut Vec<FieldError>) {
    for (i, rule) in at.rules.iter().enumerate() {
        let mut scope = Scope::new();
        scope.insert("self".to_owned(), Known::Node(at, resource));
        let old = if rule.optional_old {
            Known::Dynamic
        } else {
            Known::Node(at, resource)
        };
        scope.insert("oldSelf".to_owned(), old);
        let message = rule.message_program.as_ref();
        let both = [
            ("rule", "bool", Some(&rule.program)),
            ("messageExpression", "string", message),
        ];
        for (key, wanted, program) in both {
            let Some(program) = program else { continue };
            let wrong = match infer(program.read(), &scope).map(Known::scalar) {
                Err(wrong) => format!("compilation failed: ERROR: {wrong}"),
                Ok(Some(found)) if found != wanted => format!("compilation failed: must evaluate to a {wanted}"),
                Ok(_) => continue,
            };
            errors.push(FieldError::invalid(
                format!("{path}.x-kubernetes-validations[{i}].{key}"),
                rule.text.as_str(),
                wrong,
            ));
        }
    }
    for (key, child) in &at.properties {
        node(child, &format!("{path}.properties[{key}]"), child.embedded, errors);
    }
    if let Some(items) = &at.items {
        node(items, &format!("{path}.items"), items.embedded, errors);
    }
    if let Some(additional) = at.additional.node() {
        node(
            additional,
            &format!("{path}.additionalProperties"),
            additional.embedded,
            errors,
        );
    }
}

fn select<'a>(operand: Known<'a>, field: &str) -> Result<Known<'a>, String> {
    let Known::Node(node, resource) = operand else {
        return Ok(Known::Dynamic);
    };
    if resource && matches!(field, "apiVersion" | "kind" | "metadata") {
        return Ok(Known::Dynamic);
    }
    for (name, child) in &node.properties {
        if escape(name).as_deref() == Some(field) {
            return Ok(Known::Node(child, child.embedded));
        }
    }
    match &node.additional {
        Additional::Node(child) => Ok(Known::Node(child, child.embedded)),
        Additional::Any => Ok(Known::Dynamic),
        Additional::None if node.preserve || node.int_or_string || node.kind.is_empty() => Ok(Known::Dynamic),
        Additional::None | Additional::Forbidden => Err(format!("undefined field '{field}'")),
    }
}

fn infer<'a>(expression: &IdedExpr, scope: &Scope<'a>) -> Result<Known<'a>, String> {
    match &expression.expr {
        Expr::Ident(name) => match scope.get(name.as_str()) {
            Some(known) => Ok(*known),
            None if name.starts_with('@') || TYPES.iter().chain(&GLOBAL).any(|known| known == name) => {
                Ok(Known::Dynamic)
            }
            None => Err(format!("undeclared reference to '{name}' (in container '')")),
        },
        Expr::Select(select_expr) => {
            let operand = infer(&select_expr.operand, scope)?;
            let found = select(operand, &select_expr.field)?;
            Ok(if select_expr.test { Known::Scalar("bool") } else { found })
        }
        Expr::Call(call) if call.func_name == operators::OPT_SELECT => match call.args.as_slice() {
            [operand, field] => {
                let operand = infer(operand, scope)?;
                match &field.expr {
                    Expr::Literal(LiteralValue::String(field)) => select(operand, field.inner()),
                    _ => Ok(Known::Dynamic),
                }
            }
            _ => Ok(Known::Dynamic),
        },
        Expr::Call(call) => {
            let target = call.target.as_deref().map(|t| infer(t, scope)).transpose()?;
            let args: Vec<Known<'a>> = call
                .args
                .iter()
                .map(|arg| infer(arg, scope))
                .collect::<Result<_, _>>()?;
            if matches!(call.func_name.as_str(), operators::INDEX | operators::OPT_INDEX)
                && let Some(Known::Node(node, _)) = args.first()
            {
                if let Some(items) = node.items.as_deref() {
                    return Ok(Known::Node(items, items.embedded));
                }
                if let Some(child) = node.additional.node() {
                    return Ok(Known::Node(child, child.embedded));
                }
            }
            check_pattern(call)?;
            match target {
                None => applied(&call.func_name, &args),
                Some(_) => Ok(Known::Dynamic),
            }
        }
        Expr::Comprehension(c) => {
            let range = infer(&c.iter_range, scope)?;
            infer(&c.accu_init, scope)?;
            let mut inner = scope.clone();
            let item = match range {
                Known::Node(node, _) => node
                    .items
                    .as_deref()
                    .map_or(Known::Dynamic, |items| Known::Node(items, items.embedded)),
                Known::Scalar(_) | Known::Dynamic => Known::Dynamic,
            };
            match &c.iter_var2 {
                None => inner.insert(c.iter_var.clone(), item),
                // The first is a place or a key.
                Some(second) => {
                    let value = match range {
                        Known::Node(node, _) => node.additional.node(),
                        Known::Scalar(_) | Known::Dynamic => None,
                    };
                    let value = value.map_or(item, |value| Known::Node(value, value.embedded));
                    inner.insert(second.clone(), value);
                    inner.insert(c.iter_var.clone(), Known::Dynamic)
                }
            };
            inner.insert(c.accu_var.clone(), Known::Dynamic);
            infer(&c.loop_cond, &inner)?;
            infer(&c.loop_step, &inner)?;
            infer(&c.result, &inner)?;
            Ok(Known::Dynamic)
        }
        Expr::List(list) => {
            for element in &list.elements {
                infer(element, scope)?;
            }
            Ok(Known::Dynamic)
        }
        Expr::Map(map) => {
            for entry in &map.entries {
                match &entry.expr {
                    EntryExpr::StructField(field) => {
                        infer(&field.value, scope)?;
                    }
                    EntryExpr::MapEntry(entry) => {
                        infer(&entry.key, scope)?;
                        infer(&entry.value, scope)?;
                    }
                }
            }
            Ok(Known::Dynamic)
        }
        Expr::Literal(literal) => Ok(match literal {
            LiteralValue::Boolean(_) => Known::Scalar("bool"),
            LiteralValue::Int(_) => Known::Scalar("int"),
            LiteralValue::UInt(_) => Known::Scalar("uint"),
            LiteralValue::Double(_) => Known::Scalar("double"),
            LiteralValue::String(_) => Known::Scalar("string"),
            LiteralValue::Bytes(_) | LiteralValue::Null => Known::Dynamic,
        }),
        Expr::Struct(_) | Expr::Unspecified => Ok(Known::Dynamic),
    }
}

/// Infers what an operator or `size` makes of its arguments; one that cannot take them is refused.
fn applied<'a>(name: &str, args: &[Known<'a>]) -> Result<Known<'a>, String> {
    let scalars: Vec<Option<&str>> = args.iter().map(|arg| arg.scalar()).collect();
    let refused = || {
        let shown: Vec<&str> = scalars.iter().map(|scalar| scalar.unwrap_or("dyn")).collect();
        Err(format!(
            "found no matching overload for '{name}' applied to '({})'",
            shown.join(", ")
        ))
    };
    let not_bool = |scalar: &Option<&str>| scalar.is_some_and(|name| name != "bool");
    match name {
        operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT => {
            if scalars.iter().any(not_bool) {
                return refused();
            }
            Ok(Known::Scalar("bool"))
        }
        operators::CONDITIONAL => match (scalars.first(), args.get(1), args.get(2)) {
            (Some(condition), ..) if not_bool(condition) => refused(),
            (_, Some(one), Some(other)) if one.scalar().is_some() && one.scalar() == other.scalar() => Ok(*one),
            _ => Ok(Known::Dynamic),
        },
        operators::EQUALS
        | operators::NOT_EQUALS
        | operators::LESS
        | operators::LESS_EQUALS
        | operators::GREATER
        | operators::GREATER_EQUALS => {
            let number = |name: &str| matches!(name, "int" | "uint" | "double");
            if let [Some(one), Some(other)] = scalars.as_slice()
                && one != other
                && !(number(one) && number(other))
            {
                return refused();
            }
            Ok(Known::Scalar("bool"))
        }
        operators::IN => Ok(Known::Scalar("bool")),
        operators::ADD => match scalars.as_slice() {
            [Some(one), Some(other)] if one == other && args.len() == 2 => Ok(Known::Scalar(one)),
            _ => Ok(Known::Dynamic),
        },
        "size" => match scalars.as_slice() {
            [Some("bool" | "int" | "uint" | "double")] => refused(),
            _ => Ok(Known::Scalar("int")),
        },
        _ => Ok(Known::Dynamic),
    }
}

/// Refuses a pattern that is none, where it is written out.
fn check_pattern(call: &CallExpr) -> Result<(), String> {
    let pattern = match call.target {
        Some(_) => call.args.first(),
        None => call.args.get(1),
    };
    if !matches!(call.func_name.as_str(), "matches" | "find" | "findAll") {
        return Ok(());
    }
    match pattern.map(|pattern| &pattern.expr) {
        Some(Expr::Literal(LiteralValue::String(text))) => pattern::compile(text.inner()).map(|_| ()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Structural;
    use serde_json::json;

    #[test]
    fn scalars_of_another_type_are_refused_and_what_is_not_known_is_not() {
        let told = |rule: &str| {
            let fields = json!({
                "n": {"type": "integer"}, "s": {"type": "string"}, "t": {"type": "string", "format": "date-time"},
                "b": {"type": "boolean"}, "q": {"x-kubernetes-int-or-string": true}, "l": {"type": "array", "items": {"type": "integer"}},
            });
            let rules = json!([{"rule": rule}]);
            let schema = json!({"type": "object", "properties": fields, "x-kubernetes-validations": rules});
            Structural::from_openapi(&schema)
                .err()
                .map(|errors| errors[0].detail.clone())
        };
        for fine in [
            "self.b",
            "self.n > 1.5",
            "has(self.s) && self.s.size() > 0",
            "self.q == 5 || self.q == 'x'",
            "self.t > timestamp('2020-01-01T00:00:00Z')",
            "self.l.all(i, v, i < v) && size(self.l) + 1 > 0",
            "self.b ? self.n > 1 : has(self.l)",
            "'a' in ['a'] && self.s.matches('[a-z]') && self.l[0] + self.n == 3",
        ] {
            assert_eq!(told(fine), None, "{fine}");
        }
        for (wrong, why) in [
            ("self.n", "compilation failed: must evaluate to a bool"),
            ("has(self.n) && self.n", "'_&&_' applied to '(bool, int)'"),
            ("self.n == self.s", "'_==_' applied to '(int, string)'"),
            ("size(self.n) > 1", "'size' applied to '(int)'"),
            ("self.s.matches('[')", "error parsing regexp: missing closing ]: `[`"),
        ] {
            let told = told(wrong).unwrap_or_default();
            assert!(told.contains(why), "{wrong}: {told}");
        }
    }
}
