//! Expressions that cannot run for ever.
//!
//! kube-apiserver counts the cost of what a rule does and gives up beyond a limit. Here each turn
//! of a loop is counted, and the clock is looked at: an expression is rewritten so that every
//! loop asks, before each turn, whether it may go on.

use std::cell::Cell;
use std::time::{Duration, Instant};

use kube_cel::cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue};
use kube_cel::cel::objects::ResolveResult;
use kube_cel::cel::{Context, ExecutionError, Program, Value as Cel};

/// Longest text of an expression, in bytes.
const MAX_TEXT: usize = 64 * 1024;
/// Most signs of an expression, of which each may nest it deeper.
const MAX_SIGNS: usize = 2000;
/// Signs up to which the parser needs no stack of its own.
const FEW_SIGNS: usize = 64;
/// Stack of a thread that reads an expression; it is taken as it is needed.
const STACK: usize = 128 << 20;
/// Deepest nesting of an expression.
const MAX_DEPTH: usize = 96;
/// Most turns of loops in one rule.
const TURNS_OF_A_RULE: u64 = 250_000;
/// Most turns of loops and rules in one object.
const TURNS_OF_AN_OBJECT: u64 = 1_000_000;
/// Longest time that the rules of one object may take.
const TIME_OF_AN_OBJECT: Duration = Duration::from_secs(3);
/// Turns between two looks at the clock.
const LOOK: u64 = 256;
/// The function that loops ask; no rule can name it.
const ASK: &str = "@may_go_on";

/// What is left to spend.
#[derive(Clone, Copy)]
struct Left {
    rule: u64,
    object: u64,
    until: Option<Instant>,
}

thread_local! {
    static LEFT: Cell<Left> = const {
        Cell::new(Left { rule: TURNS_OF_A_RULE, object: TURNS_OF_AN_OBJECT, until: None })
    };
}

/// What was spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spent {
    /// A rule's own share.
    Rule,
    /// All that the rules of one object have together.
    Object,
}

/// Begins with the rules of an object.
pub(super) fn begin_object() {
    LEFT.set(Left {
        rule: TURNS_OF_A_RULE,
        object: TURNS_OF_AN_OBJECT,
        until: Some(Instant::now() + TIME_OF_AN_OBJECT),
    });
}

/// Takes one turn; tells whether it may be taken.
fn turn() -> bool {
    let mut left = LEFT.get();
    left.rule = left.rule.saturating_sub(1);
    left.object = left.object.saturating_sub(1);
    if left.object.is_multiple_of(LOOK) && left.until.is_some_and(|until| Instant::now() > until) {
        left.object = 0;
    }
    LEFT.set(left);
    left.rule > 0 && left.object > 0
}

/// Lets loops of `context` ask whether they may go on.
pub(in crate::admission::schema) fn register(context: &mut Context<'_>) {
    context.add_function(ASK, || -> Result<bool, ExecutionError> {
        if turn() {
            Ok(true)
        } else {
            Err(ExecutionError::function_error("loop", "the cost limit is exceeded"))
        }
    });
}

/// An expression that was read and whose loops are bounded.
#[derive(Debug)]
pub(in crate::admission::schema) struct Bounded {
    read: Program,
    run: IdedExpr,
}

impl Bounded {
    /// Reads an expression.
    pub(super) fn compile(source: &str) -> Result<Bounded, String> {
        if source.len() > MAX_TEXT {
            return Err(format!(
                "the expression has {} bytes, of which at most {MAX_TEXT} are allowed",
                source.len()
            ));
        }
        let signs = source.bytes().filter(|byte| b"!-+*/%?&|<>=.([{".contains(byte)).count();
        match signs {
            0..=FEW_SIGNS => Bounded::read(source),
            _ if signs > MAX_SIGNS => Err(format!(
                "the expression has {signs} operators, of which at most {MAX_SIGNS} are allowed"
            )),
            _ => std::thread::scope(|scope| {
                std::thread::Builder::new()
                    .stack_size(STACK)
                    .spawn_scoped(scope, || Bounded::read(source))
                    .map_err(|error| format!("failed to start a thread: {error}"))?
                    .join()
                    .unwrap_or_else(|_| Err("the expression cannot be read".to_owned()))
            }),
        }
    }

    fn read(source: &str) -> Result<Bounded, String> {
        let read = Program::compile(source).map_err(|error| error.to_string().trim().to_owned())?;
        let run = bound(read.expression(), 0)?;
        Ok(Bounded { read, run })
    }

    /// Returns the expression as it was written.
    pub(in crate::admission::schema) fn expression(&self) -> &IdedExpr {
        self.read.expression()
    }

    /// Tells whether a variable is used.
    pub(super) fn uses(&self, variable: &str) -> bool {
        self.read.references().has_variable(variable)
    }

    /// Evaluates the expression as the next rule of an object; what was spent, if anything was, outweighs the
    /// result.
    pub(super) fn execute(&self, scope: &Context<'_>) -> Result<ResolveResult, Spent> {
        LEFT.set(Left {
            rule: TURNS_OF_A_RULE,
            ..LEFT.get()
        });
        if !turn() {
            return Err(Spent::Object);
        }
        let result = Cel::resolve(&self.run, scope);
        let left = LEFT.get();
        match (left.rule, left.object) {
            (_, 0) => Err(Spent::Object),
            (0, _) => Err(Spent::Rule),
            _ => Ok(result),
        }
    }
}

/// Copies an expression with every loop bounded; what cannot be evaluated is refused.
fn bound(at: &IdedExpr, depth: usize) -> Result<IdedExpr, String> {
    if depth > MAX_DEPTH {
        return Err(format!("the expression is nested more than {MAX_DEPTH} levels deep"));
    }
    let below = |expr: &IdedExpr| bound(expr, depth + 1);
    let boxed = |expr: &IdedExpr| below(expr).map(Box::new);
    let all = |list: &[IdedExpr]| list.iter().map(below).collect::<Result<Vec<_>, _>>();
    let expr = match &at.expr {
        Expr::Call(call) => Expr::Call(CallExpr {
            func_name: call.func_name.clone(),
            target: call.target.as_deref().map(boxed).transpose()?,
            args: all(&call.args)?,
        }),
        Expr::Select(select) => {
            let mut select = select.clone();
            select.operand = boxed(&select.operand)?;
            Expr::Select(select)
        }
        Expr::List(list) => {
            let mut list = list.clone();
            list.elements = all(&list.elements)?;
            Expr::List(list)
        }
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
            loop_cond: asking(below(&looped.loop_cond)?),
            loop_step: below(&looped.loop_step)?,
            result: below(&looped.result)?,
        })),
        Expr::Struct(made) => return Err(format!("undeclared reference to '{}'", made.type_name)),
        Expr::Unspecified => return Err("an empty expression cannot be evaluated".to_owned()),
        Expr::Ident(_) | Expr::Literal(_) => at.expr.clone(),
    };
    Ok(IdedExpr { id: at.id, expr })
}

/// Makes a condition that asks first: an error of the answer is not absorbed, as it would be by `&&`.
fn asking(condition: IdedExpr) -> IdedExpr {
    let id = condition.id;
    let call = |func_name: &str, args| IdedExpr {
        id,
        expr: Expr::Call(CallExpr {
            func_name: func_name.to_owned(),
            target: None,
            args,
        }),
    };
    let never = IdedExpr {
        id,
        expr: Expr::Literal(LiteralValue::Boolean(false.into())),
    };
    call("_?_:_", vec![call(ASK, Vec::new()), condition, never])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use serde_json::{Value, json};

    use super::super::super::Structural;
    use super::super::super::celvalue::with_scope;
    use super::*;

    fn run(source: &str, items: usize) -> Result<ResolveResult, Spent> {
        let program = Bounded::compile(source).unwrap();
        begin_object();
        with_scope(|base| {
            let mut scope = base.new_inner_scope();
            let list: Vec<Cel> = (0..items).map(|i| Cel::Int(i as i64)).collect();
            scope.add_variable_from_value("self", Cel::List(list.into()));
            program.execute(&scope)
        })
    }

    #[test]
    fn loops_within_the_limit_run_to_their_end() {
        let distinct = "self.all(x, self.exists_one(y, x == y))";
        assert_eq!(run(distinct, 100), Ok(Ok(Cel::Bool(true))));
        assert_eq!(run("self.map(x, x + 1).exists(x, x == 7)", 50), Ok(Ok(Cel::Bool(true))));
        assert_eq!(run("size(self.filter(x, x > 2)) == 1", 4), Ok(Ok(Cel::Bool(true))));
    }

    #[test]
    fn loops_within_loops_are_stopped_and_no_operator_hides_it() {
        let nested = "self.all(a, self.all(b, self.all(c, self.all(d, a + b + c + d >= 0))))";
        for source in [
            nested.to_owned(),
            format!("true || !({nested})"),
            format!("({nested}) || true"),
        ] {
            let spent = run(&source, 400);
            assert!(
                matches!(spent, Err(Spent::Rule | Spent::Object)) || source.starts_with("true ||"),
                "{source}: {spent:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_evaluated_is_refused_when_it_is_read() {
        let many = "[".repeat(5000) + &"]".repeat(5000);
        let chain = "1 + ".repeat(1_900) + "1 > 0";
        let dots = format!("self{}", ".a".repeat(1_900));
        let negations = "!".repeat(60_000) + "true";
        let long = format!("'{}' == ''", "x".repeat(MAX_TEXT));
        for source in [
            &many,
            &chain,
            &dots,
            &negations,
            &long,
            "Thing{a: 1}.a == 1",
            "self.all(",
            "",
        ] {
            assert!(Bounded::compile(source).is_err(), "{}", &source[..source.len().min(40)]);
        }
    }

    #[test]
    fn a_rule_that_costs_too_much_is_told_and_ends_the_validation() {
        let schema = json!({
            "type": "object",
            "properties": {"list": {"type": "array", "items": {"type": "integer"}, "x-kubernetes-validations": [
                {"rule": "self.all(a, self.all(b, self.all(c, a + b + c >= 0)))"},
                {"rule": "false", "message": "never reached"},
            ]}},
        });
        let schema = Structural::from_openapi(&schema).unwrap();
        let list: Vec<Value> = (0..1000).map(Value::from).collect();
        let errors = schema.validate(&json!({"list": list}), None);
        assert_eq!(errors.len(), 1, "{errors:?}");
        let text = errors[0].to_string();
        assert!(
            text.starts_with("list: Invalid value:")
                && (text.contains("call cost exceeds limit for rule") || text.contains("running out of cost budget")),
            "{text}"
        );
    }
}
