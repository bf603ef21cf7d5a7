//! Expressions of CEL that cannot run for ever.
//!
//! An expression is rewritten when it is read: macros that the parser does not know are replaced by loops, what may be
//! missing is looked up by functions of our own, and every loop asks before each turn whether it may go on.

mod build;
mod functions;
mod limit;
mod macros;
mod matches;

use kube_cel::cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, operators};
use kube_cel::cel::objects::ResolveResult;
use kube_cel::cel::parser::Parser;
use kube_cel::cel::{Context, Value as Cel};

use build::{At, rebuilt};
pub(super) use functions::{TYPES, optional, with_scope};
pub(super) use limit::{Spent, begin_object};
pub(super) use matches::PATTERN;

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

/// An expression that was read and whose loops are bounded.
#[derive(Debug)]
pub(super) struct Expression {
    read: IdedExpr,
    run: IdedExpr,
}

/// Counts the one operator that is a word; a number may touch it.
fn ins(source: &str) -> usize {
    let bytes = source.as_bytes();
    let in_name = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    let found = source.match_indices("in").filter(|(at, _)| {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        let after = bytes.get(at + 2);
        !before.is_some_and(in_name) && !after.is_some_and(|byte| in_name(byte) || byte.is_ascii_digit())
    });
    found.count()
}

impl Expression {
    /// Reads an expression.
    pub(super) fn compile(source: &str) -> Result<Expression, String> {
        if source.len() > MAX_TEXT {
            return Err(format!(
                "the expression has {} bytes, of which at most {MAX_TEXT} are allowed",
                source.len()
            ));
        }
        let signs = source.bytes().filter(|byte| b"!-+*/%?&|<>=.([{".contains(byte)).count() + ins(source);
        match signs {
            0..=FEW_SIGNS => Expression::parse(source),
            _ if signs > MAX_SIGNS => Err(format!(
                "the expression has {signs} operators, of which at most {MAX_SIGNS} are allowed"
            )),
            _ => std::thread::scope(|scope| {
                std::thread::Builder::new()
                    .stack_size(STACK)
                    .spawn_scoped(scope, || Expression::parse(source))
                    .map_err(|error| format!("failed to start a thread: {error}"))?
                    .join()
                    .unwrap_or_else(|_| Err("the expression cannot be read".to_owned()))
            }),
        }
    }

    fn parse(source: &str) -> Result<Expression, String> {
        let parser = Parser::default().enable_optional_syntax(true);
        let read = parser
            .parse(source)
            .map_err(|error| error.to_string().trim().to_owned())?;
        check_depth(&read, 0)?;
        let read = macros::expanded(&read)?;
        let run = bound(&read)?;
        Ok(Expression { read, run })
    }

    /// Returns the expression as it was written, its macros replaced.
    pub(super) fn read(&self) -> &IdedExpr {
        &self.read
    }

    /// Tells whether a variable is used.
    pub(super) fn uses(&self, variable: &str) -> bool {
        self.read.references().has_variable(variable)
    }

    /// Evaluates the expression as the next rule of an object; what was spent, if anything was, outweighs the
    /// result.
    pub(super) fn execute(&self, scope: &Context<'_>) -> Result<ResolveResult, Spent> {
        if !limit::begin_rule() {
            return Err(Spent::Object);
        }
        let result = Cel::resolve(&self.run, scope);
        match limit::spent() {
            Some(spent) => Err(spent),
            None => Ok(result),
        }
    }
}

/// Refuses an expression that is nested too deeply.
fn check_depth(at: &IdedExpr, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("the expression is nested more than {MAX_DEPTH} levels deep"));
    }
    rebuilt(at, &mut |below| {
        check_depth(below, depth + 1)?;
        Ok(IdedExpr::default())
    })
    .map(|_| ())
}

/// Copies an expression with every loop bounded, and as the evaluator can run it.
fn bound(read: &IdedExpr) -> Result<IdedExpr, String> {
    let optional = is_optional(read);
    let expr = rebuilt(read, &mut bound)?;
    let at = At(expr.id);
    Ok(match expr.expr {
        Expr::Call(CallExpr {
            func_name,
            target: None,
            args,
        }) => match func_name.as_str() {
            operators::OPT_SELECT => at.call(functions::SELECT, args),
            operators::OPT_INDEX => at.call(functions::ELEMENT, args),
            _ => at.call(&func_name, args),
        },
        Expr::Select(select) if optional || select.test && is_optional_field(read) => {
            let found = at.call(functions::SELECT, vec![*select.operand, at.text(&select.field)]);
            if select.test {
                at.method(found, "hasValue", Vec::new())
            } else {
                found
            }
        }
        Expr::Comprehension(looped) => looped_within(at, *looped),
        other => at.expr(other),
    })
}

/// Tells whether an expression reads what may be missing: everything after the first `.?` or `[?`.
fn is_optional(expr: &IdedExpr) -> bool {
    match &expr.expr {
        Expr::Call(call) if call.target.is_none() => match call.func_name.as_str() {
            operators::OPT_SELECT | operators::OPT_INDEX => true,
            operators::INDEX => call.args.first().is_some_and(is_optional),
            _ => false,
        },
        Expr::Select(select) => !select.test && is_optional(&select.operand),
        _ => false,
    }
}

/// Tells whether `has` asks for a field of what may be missing.
fn is_optional_field(expr: &IdedExpr) -> bool {
    matches!(&expr.expr, Expr::Select(select) if is_optional(&select.operand))
}

/// Rewrites a loop: it asks before each turn, two variables are one that holds a pair, and a turn of `all` or `exists`
/// that fails is forgiven if another decides.
fn looped_within(at: At, mut looped: ComprehensionExpr) -> IdedExpr {
    const PAIR: &str = "@pair";
    let turns = decided_by(&looped).map(|by| match by {
        false => (functions::ALL_OPEN, functions::TURN_OF_ALL),
        true => (functions::EXISTS_OPEN, functions::TURN_OF_EXISTS),
    });
    if let Some((open, turn)) = turns {
        let result = || at.ident(functions::RESULT);
        if let Expr::Call(step) = &mut looped.loop_step.expr {
            step.func_name = turn.to_owned();
        }
        looped.loop_cond = at.call(open, vec![result()]);
        looped.result = at.call(functions::SETTLED, vec![result()]);
    }
    if let Some(second) = looped.iter_var2.take() {
        let first = std::mem::replace(&mut looped.iter_var, PAIR.to_owned());
        let of = |place: i64| at.call(operators::INDEX, vec![at.ident(PAIR), at.integer(place)]);
        looped.iter_range = at.call(functions::PAIRS, vec![looped.iter_range]);
        looped.loop_step = at.bind(&first, of(0), at.bind(&second, of(1), looped.loop_step));
    }
    // It asks first: an error of the answer is not absorbed, as it would be by `&&`.
    let ask = at.call(limit::ASK, Vec::new());
    looped.loop_cond = at.call(operators::CONDITIONAL, vec![ask, looped.loop_cond, at.boolean(false)]);
    at.expr(Expr::Comprehension(Box::new(looped)))
}

/// Returns what one turn can decide a loop to be, if one can: that of `all` false, that of `exists` true.
fn decided_by(looped: &ComprehensionExpr) -> Option<bool> {
    let Expr::Call(step) = &looped.loop_step.expr else {
        return None;
    };
    let gathers =
        matches!(step.args.first().map(|arg| &arg.expr), Some(Expr::Ident(name)) if name == functions::RESULT);
    match (step.func_name.as_str(), &looped.accu_init.expr) {
        (operators::LOGICAL_AND, Expr::Literal(LiteralValue::Boolean(start))) if gathers && *start.inner() => {
            Some(false)
        }
        (operators::LOGICAL_OR, Expr::Literal(LiteralValue::Boolean(start))) if gathers && !*start.inner() => {
            Some(true)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use serde_json::{Value, json};

    use super::super::Structural;
    use super::*;

    fn run(source: &str, items: usize) -> Result<ResolveResult, Spent> {
        let program = Expression::compile(source).unwrap();
        begin_object();
        with_scope(|base| {
            let mut scope = base.new_inner_scope();
            let list: Vec<Cel> = (0..items).map(|i| Cel::Int(i as i64)).collect();
            scope.add_variable_from_value("self", Cel::List(list.into()));
            program.execute(&scope)
        })
    }

    #[test]
    fn the_operator_that_is_a_word_counts_as_one() {
        assert_eq!(ins("1 in [1] && a in b || 1in 1"), 3);
        assert_eq!(ins("min(inner, origin) == in_use"), 0);
        // As deep as a signed one, and read no further.
        let deep = format!("1{}", " in 1".repeat(10_000));
        let refused = Expression::compile(&deep).unwrap_err();
        assert!(refused.contains("operators, of which at most"), "{refused}");
    }

    #[test]
    fn loops_within_the_limit_run_to_their_end() {
        let distinct = "self.all(x, self.exists_one(y, x == y))";
        assert_eq!(run(distinct, 100), Ok(Ok(Cel::Bool(true))));
        assert_eq!(run("self.map(x, x + 1).exists(x, x == 7)", 50), Ok(Ok(Cel::Bool(true))));
        assert_eq!(run("size(self.filter(x, x > 2)) == 1", 4), Ok(Ok(Cel::Bool(true))));
    }

    #[test]
    fn loops_of_two_variables_run_over_lists_and_maps() {
        for source in [
            "self.all(i, v, i == v)",
            "self.exists(i, v, i == 2 && v == 2)",
            "self.existsOne(i, v, i + v == 2)",
            "self.exists_one(i, v, i + v == 2)",
            "self.transformList(i, v, i * v) == [0, 1, 4]",
            "self.transformList(i, v, v > 1, i) == [2]",
            "self.transformMap(i, v, v > 0, v * 2) == {1: 2, 2: 4}",
            "{'a': 1, 'b': 2}.transformMapEntry(k, v, {v: k}) == {1: 'a', 2: 'b'}",
            "{'a': 1}.all(k, v, k == 'a' && v == 1)",
            "self.all(i, v, self.all(j, w, i != j || v == w))",
        ] {
            assert_eq!(run(source, 3), Ok(Ok(Cel::Bool(true))), "{source}");
        }
        assert!(matches!(
            run("{'a': 1, 'b': 1}.transformMapEntry(k, v, {v: k}) == {}", 1),
            Ok(Err(_))
        ));
        for wrong in ["self.all(i, i, true)", "self.all(i.x, v, true)"] {
            assert!(Expression::compile(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_may_be_missing_is_looked_up() {
        for source in [
            "self[?1].orValue(9) == 1",
            "self[?7].orValue(9) == 9",
            "{'a': {'b': 1}}.?a.?b.orValue(0) == 1",
            "{'a': {'b': 1}}.?x.b.hasValue() == false",
            "!has({'a': {'b': 1}}.?a.c)",
            "has({'a': {'b': 1}}.?a.b)",
            "{'a': 1}[?'a'].optMap(x, x + 1).value() == 2",
            "!{'a': 1}[?'b'].optMap(x, x + 1).hasValue()",
            "{'a': {'b': 1}}.?a.optFlatMap(x, x.?b).value() == 1",
            "[?self[?0], ?self[?7]].size() == 1",
        ] {
            assert_eq!(run(source, 3), Ok(Ok(Cel::Bool(true))), "{source}");
        }
    }

    #[test]
    fn a_turn_that_fails_is_forgiven_where_another_decides() {
        assert_eq!(run("self.exists(x, 10 / x == 5)", 3), Ok(Ok(Cel::Bool(true))));
        assert_eq!(run("self.all(x, 10 / x == 5)", 3), Ok(Ok(Cel::Bool(false))));
        assert_eq!(run("self.exists(i, x, 10 / x == i + 3)", 3), Ok(Ok(Cel::Bool(true))));
        assert!(matches!(run("self.exists(x, 10 / x == 7)", 3), Ok(Err(_))));
        assert!(matches!(run("self.all(x, 10 / x > 0)", 3), Ok(Err(_))));
        assert!(matches!(run("self.exists_one(x, 10 / x == 5)", 3), Ok(Err(_))));
    }

    #[test]
    fn patterns_of_rules_are_those_of_go() {
        assert_eq!(run(r"'\u0663'.matches('^\\d$')", 0), Ok(Ok(Cel::Bool(false))));
        assert_eq!(
            run("'a1b2'.findAll('[0-9]', 1) == ['1'] && 'ab'.find('b') == 'b'", 0),
            Ok(Ok(Cel::Bool(true)))
        );
        assert!(matches!(run("'a'.matches('a++')", 0), Ok(Err(_))));
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
            assert!(
                Expression::compile(source).is_err(),
                "{}",
                &source[..source.len().min(40)]
            );
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
