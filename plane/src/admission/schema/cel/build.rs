//! Making expressions: the parts that macros and rewritten loops consist of.

use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, SelectExpr,
};

/// Makes expressions in the place of one that was read.
#[derive(Clone, Copy)]
pub(super) struct At(pub u64);

impl At {
    pub(super) fn expr(self, expr: Expr) -> IdedExpr {
        IdedExpr { id: self.0, expr }
    }

    pub(super) fn ident(self, name: &str) -> IdedExpr {
        self.expr(Expr::Ident(name.to_owned()))
    }

    pub(super) fn boolean(self, value: bool) -> IdedExpr {
        self.expr(Expr::Literal(LiteralValue::Boolean(value.into())))
    }

    pub(super) fn integer(self, value: i64) -> IdedExpr {
        self.expr(Expr::Literal(LiteralValue::Int(value.into())))
    }

    pub(super) fn text(self, value: &str) -> IdedExpr {
        self.expr(Expr::Literal(LiteralValue::String(value.into())))
    }

    pub(super) fn list(self, elements: Vec<IdedExpr>) -> IdedExpr {
        self.expr(Expr::List(ListExpr::new(elements)))
    }

    pub(super) fn call(self, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
        self.expr(Expr::Call(CallExpr {
            func_name: name.to_owned(),
            target: None,
            args,
        }))
    }

    /// Calls a function of a value: `target.name(args)`.
    pub(super) fn method(self, target: IdedExpr, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
        self.expr(Expr::Call(CallExpr {
            func_name: name.to_owned(),
            target: Some(Box::new(target)),
            args,
        }))
    }

    /// Evaluates `result` where `name` stands for `value`: a loop without turns.
    pub(super) fn bind(self, name: &str, value: IdedExpr, result: IdedExpr) -> IdedExpr {
        self.expr(Expr::Comprehension(Box::new(ComprehensionExpr {
            iter_range: self.list(Vec::new()),
            iter_var: "@unused".to_owned(),
            iter_var2: None,
            accu_var: name.to_owned(),
            accu_init: value,
            loop_cond: self.boolean(false),
            loop_step: self.ident(name),
            result,
        })))
    }
}

/// Copies an expression with each of those below it made anew.
///
/// # Errors
/// What `below` says, and what cannot be evaluated.
pub(super) fn rebuilt(
    at: &IdedExpr,
    below: &mut dyn FnMut(&IdedExpr) -> Result<IdedExpr, String>,
) -> Result<IdedExpr, String> {
    let expr = match &at.expr {
        Expr::Call(call) => Expr::Call(CallExpr {
            func_name: call.func_name.clone(),
            target: match call.target.as_deref() {
                Some(target) => Some(Box::new(below(target)?)),
                None => None,
            },
            args: all(&call.args, below)?,
        }),
        Expr::Select(select) => Expr::Select(SelectExpr {
            operand: Box::new(below(&select.operand)?),
            ..select.clone()
        }),
        Expr::List(list) => Expr::List(ListExpr {
            elements: all(&list.elements, below)?,
            optional_indices: list.optional_indices.clone(),
        }),
        Expr::Map(map) => {
            let mut map = map.clone();
            for entry in &mut map.entries {
                let EntryExpr::MapEntry(entry) = &mut entry.expr else {
                    return Err("a map with fields of a struct cannot be evaluated".to_owned());
                };
                entry.key = below(&entry.key)?;
                entry.value = below(&entry.value)?;
            }
            Expr::Map(map)
        }
        Expr::Comprehension(looped) => Expr::Comprehension(Box::new(ComprehensionExpr {
            iter_range: below(&looped.iter_range)?,
            iter_var: looped.iter_var.clone(),
            iter_var2: looped.iter_var2.clone(),
            accu_var: looped.accu_var.clone(),
            accu_init: below(&looped.accu_init)?,
            loop_cond: below(&looped.loop_cond)?,
            loop_step: below(&looped.loop_step)?,
            result: below(&looped.result)?,
        })),
        Expr::Struct(made) => return Err(format!("undeclared reference to '{}'", made.type_name)),
        Expr::Unspecified => return Err("an empty expression cannot be evaluated".to_owned()),
        Expr::Ident(_) | Expr::Literal(_) => at.expr.clone(),
    };
    Ok(IdedExpr { id: at.id, expr })
}

fn all(
    list: &[IdedExpr],
    below: &mut dyn FnMut(&IdedExpr) -> Result<IdedExpr, String>,
) -> Result<Vec<IdedExpr>, String> {
    list.iter().map(below).collect()
}
