//! A check of CEL rules before they run: names and fields that cannot exist.
//!
//! kube-apiserver type-checks rules when a CRD is written. This check is smaller:
//! it refuses unknown variables and fields that the schema does not declare.

use std::collections::HashMap;

use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr};

use super::celvalue::{TYPES, escape};
use super::node::{Additional, Node};
use crate::admission::error::FieldError;

/// What is known of an expression's type.
#[derive(Clone, Copy)]
enum Known<'a> {
    /// Values of this schema; the flag marks an object's root.
    Node(&'a Node, bool),
    /// Nothing.
    Dynamic,
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
        if let Err(wrong) = infer(rule.program.expression(), &scope) {
            errors.push(FieldError::invalid(
                format!("{path}.x-kubernetes-validations[{i}].rule"),
                rule.text.as_str(),
                format!("compilation failed: ERROR: {wrong}"),
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
            select(operand, &select_expr.field)
        }
        Expr::Call(call) => {
            let target = call.target.as_deref().map(|t| infer(t, scope)).transpose()?;
            let mut first = None;
            for argument in &call.args {
                let known = infer(argument, scope)?;
                first.get_or_insert(known);
            }
            if call.func_name == "_[_]"
                && let Some(Known::Node(node, _)) = target.or(first)
            {
                if let Some(items) = node.items.as_deref() {
                    return Ok(Known::Node(items, items.embedded));
                }
                if let Some(child) = node.additional.node() {
                    return Ok(Known::Node(child, child.embedded));
                }
            }
            Ok(Known::Dynamic)
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
                Known::Dynamic => Known::Dynamic,
            };
            inner.insert(c.iter_var.clone(), item);
            if let Some(second) = &c.iter_var2 {
                inner.insert(second.clone(), Known::Dynamic);
                inner.insert(c.iter_var.clone(), Known::Dynamic);
            }
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
        Expr::Struct(_) | Expr::Literal(_) | Expr::Unspecified => Ok(Known::Dynamic),
    }
}
