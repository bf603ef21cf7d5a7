//! The functions of CEL that take patterns, which are Go's: `matches`, `find`, `findAll`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::extractors::{Arguments, This};
use kube_cel::cel::{Context, ExecutionError, Value as Cel};
use regex::Regex;

use crate::admission::schema::pattern;

/// Compiled patterns that are kept: rules use few, over and over.
const KEPT: usize = 64;

type Compiled = Result<Regex, String>;

thread_local! {
    static COMPILED: RefCell<HashMap<String, Compiled>> = RefCell::new(HashMap::new());
}

/// Lets rules of `context` use patterns.
pub(super) fn register(context: &mut Context<'_>) {
    context.add_function(
        "matches",
        |This(text): This<Arc<String>>, pattern: Arc<String>| -> Result<bool, ExecutionError> {
            compiled(&pattern).map(|regex| regex.is_match(&text))
        },
    );
    context.add_function(
        "find",
        |This(text): This<Arc<String>>, pattern: Arc<String>| -> Result<Cel, ExecutionError> {
            let regex = compiled(&pattern)?;
            Ok(said(regex.find(&text).map_or("", |found| found.as_str())))
        },
    );
    context.add_function("findAll", find_all);
}

fn find_all(This(text): This<Arc<String>>, Arguments(args): Arguments) -> Result<Cel, ExecutionError> {
    let (pattern, most) = match args.as_slice() {
        [Cel::String(pattern)] => (pattern, usize::MAX),
        [Cel::String(pattern), Cel::Int(most)] => (pattern, usize::try_from(*most).unwrap_or(usize::MAX)),
        _ => return Err(ExecutionError::NoSuchOverload),
    };
    let regex = compiled(pattern)?;
    let found = regex.find_iter(&text).take(most);
    Ok(Cel::List(Arc::new(found.map(|found| said(found.as_str())).collect())))
}

fn said(text: &str) -> Cel {
    Cel::String(Arc::new(text.to_owned()))
}

fn compiled(text: &str) -> Result<Regex, ExecutionError> {
    COMPILED.with_borrow_mut(|known| {
        if known.len() >= KEPT && !known.contains_key(text) {
            known.clear();
        }
        let compiled = known.entry(text.to_owned()).or_insert_with(|| pattern::compile(text));
        // The words are Go's; see the words for a rule that failed.
        compiled
            .clone()
            .map_err(|why| ExecutionError::function_error(PATTERN, why))
    })
}

/// Names the function in errors about patterns.
pub(in crate::admission::schema) const PATTERN: &str = "@pattern";
