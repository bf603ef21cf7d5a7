//! Macros that the parser does not know: those of two variables, and those of optional values.

use kube_cel::cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, ListExpr, MapExpr, operators};

use super::build::{At, rebuilt};
use super::functions::{INSERT, RESULT};

/// Replaces the macros of an expression by what they stand for.
///
/// # Errors
/// What is no macro though it is written as one.
pub(super) fn expanded(at: &IdedExpr) -> Result<IdedExpr, String> {
    let expr = rebuilt(at, &mut expanded)?;
    let at = At(expr.id);
    match expr.expr {
        Expr::Call(CallExpr {
            func_name,
            target: Some(target),
            args,
        }) => call(at, func_name, *target, args),
        other => Ok(at.expr(other)),
    }
}

fn call(at: At, name: String, target: IdedExpr, mut args: Vec<IdedExpr>) -> Result<IdedExpr, String> {
    let filtered = matches!(name.as_str(), "transformList" | "transformMap" | "transformMapEntry");
    match (name.as_str(), args.len()) {
        ("all" | "exists" | "existsOne" | "exists_one", 3) => {}
        _ if filtered && matches!(args.len(), 3 | 4) => {}
        ("optMap" | "optFlatMap", 2) => return optional(at, &name, target, args),
        _ => return Ok(at.method(target, &name, args)),
    }
    let mut last = args.split_off(2);
    let (first, second) = match args.as_slice() {
        [first, second] => (variable(first)?, variable(second)?),
        _ => return Err("two variables are wanted".to_owned()),
    };
    if first == second {
        return Err(format!("duplicate iteration variable '{first}'"));
    }
    let said = last.pop().unwrap_or_default();
    let result = || at.ident(RESULT);
    let mut step = match name.as_str() {
        "all" => at.call(operators::LOGICAL_AND, vec![result(), said]),
        "exists" => at.call(operators::LOGICAL_OR, vec![result(), said]),
        "existsOne" | "exists_one" => {
            let more = at.call(operators::ADD, vec![result(), at.integer(1)]);
            at.call(operators::CONDITIONAL, vec![said, more, result()])
        }
        "transformList" => at.call(operators::ADD, vec![result(), at.list(vec![said])]),
        "transformMap" => at.call(INSERT, vec![result(), at.ident(&first), said]),
        _ => at.call(INSERT, vec![result(), said]),
    };
    if let Some(filter) = last.pop() {
        step = at.call(operators::CONDITIONAL, vec![filter, step, result()]);
    }
    let undecided = |decided: IdedExpr| at.call(operators::NOT_STRICTLY_FALSE, vec![decided]);
    let (accu_init, loop_cond) = match name.as_str() {
        "all" => (at.boolean(true), undecided(result())),
        "exists" => {
            let none = at.call(operators::LOGICAL_NOT, vec![result()]);
            (at.boolean(false), undecided(none))
        }
        "existsOne" | "exists_one" => (at.integer(0), at.boolean(true)),
        "transformList" => (at.list(Vec::new()), at.boolean(true)),
        _ => (at.expr(Expr::Map(MapExpr::default())), at.boolean(true)),
    };
    let result = match name.as_str() {
        "existsOne" | "exists_one" => at.call(operators::EQUALS, vec![result(), at.integer(1)]),
        _ => result(),
    };
    Ok(at.expr(Expr::Comprehension(Box::new(ComprehensionExpr {
        iter_range: target,
        iter_var: first,
        iter_var2: Some(second),
        accu_var: RESULT.to_owned(),
        accu_init,
        loop_cond,
        loop_step: step,
        result,
    }))))
}

fn variable(expr: &IdedExpr) -> Result<String, String> {
    match &expr.expr {
        Expr::Ident(name) => Ok(name.clone()),
        _ => Err("argument must be a simple name".to_owned()),
    }
}

/// Writes `target.optMap(name, said)`: what is said of the value, where there is one. The value stands in a list
/// meanwhile: a variable of the evaluator holds no optional value.
fn optional(at: At, name: &str, target: IdedExpr, mut args: Vec<IdedExpr>) -> Result<IdedExpr, String> {
    const TARGET: &str = "@target";
    let said = args.pop().unwrap_or_default();
    let variable = variable(&args.pop().unwrap_or_default())?;
    let of = |name: &str, args| at.method(at.ident("optional"), name, args);
    let value = at.call(operators::INDEX, vec![at.ident(TARGET), at.integer(0)]);
    let said = at.bind(&variable, value, said);
    let some = if name == "optMap" { of("of", vec![said]) } else { said };
    let missing = at.call(operators::EQUALS, vec![at.ident(TARGET), at.list(Vec::new())]);
    let chosen = at.call(operators::CONDITIONAL, vec![missing, of("none", Vec::new()), some]);
    let held = at.expr(Expr::List(ListExpr::new_with_optionals(vec![target], vec![0])));
    Ok(at.bind(TARGET, held, chosen))
}
