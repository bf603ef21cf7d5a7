//! What rules may call: Kubernetes' functions, and those by which rewritten loops run.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::KubeCelExt;
use kube_cel::cel::objects::{Key, Map, Opaque, OptionalValue};
use kube_cel::cel::{Context, ExecutionError, FunctionContext, Value as Cel};

use super::{limit, matches};

/// The variable in which a loop gathers; no rule can name it.
pub(super) const RESULT: &str = "@result";
/// Lists what a list or a map holds as pairs of index or key, and value.
pub(super) const PAIRS: &str = "@pairs";
/// Adds an entry to a map: a key and a value, or another map.
pub(super) const INSERT: &str = "@insert";
/// Reads a field that may be missing.
pub(super) const SELECT: &str = "@select";
/// Reads an element or entry that may be missing.
pub(super) const ELEMENT: &str = "@element";
/// Takes a turn of `all`.
pub(super) const TURN_OF_ALL: &str = "@turn_of_all";
/// Takes a turn of `exists`.
pub(super) const TURN_OF_EXISTS: &str = "@turn_of_exists";
/// Tells whether a loop of `all` has not found a turn that decides.
pub(super) const ALL_OPEN: &str = "@all_open";
/// Tells whether a loop of `exists` has not found a turn that decides.
pub(super) const EXISTS_OPEN: &str = "@exists_open";
/// Returns what a loop found: a fault that no turn outweighed is one.
pub(super) const SETTLED: &str = "@settled";

type Outcome = Result<Cel, ExecutionError>;

thread_local! {
    /// The functions, registered once per thread.
    static BASE: Context<'static> = {
        let mut base = Context::default().with_all();
        limit::register(&mut base);
        matches::register(&mut base);
        name_types(&mut base);
        base.add_function(PAIRS, |range: Cel| -> Outcome { pairs(&range) });
        base.add_function(INSERT, insert);
        base.add_function(SELECT, |value: Cel, field: Arc<String>| -> Outcome {
            found_in(&value, &|value| match value {
                Cel::Map(map) => Ok(map.map.get(&Key::String(Arc::clone(&field))).cloned()),
                _ => Err(ExecutionError::NoSuchOverload),
            })
        });
        base.add_function(ELEMENT, |value: Cel, key: Cel| -> Outcome {
            found_in(&value, &|value| element(value, &key))
        });
        base.add_function(TURN_OF_ALL, turn_of_all);
        base.add_function(TURN_OF_EXISTS, turn_of_exists);
        base.add_function(ALL_OPEN, |found: Cel| -> Outcome { Ok((found != Cel::Bool(false)).into()) });
        base.add_function(EXISTS_OPEN, |found: Cel| -> Outcome { Ok((found != Cel::Bool(true)).into()) });
        base.add_function(SETTLED, |found: Cel| -> Outcome {
            match fault(&found) {
                Some(fault) => Err(fault.0.clone()),
                None => Ok(found),
            }
        });
        base
    };
}

/// Runs `f` with a scope that holds the functions.
pub(in crate::admission::schema) fn with_scope<T>(f: impl FnOnce(&Context<'_>) -> T) -> T {
    BASE.with(|base| f(base))
}

/// Types that rules name as they name variables.
pub(in crate::admission::schema) const TYPES: [&str; 9] = [
    "int",
    "uint",
    "double",
    "bool",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
];

/// Lets rules ask for a value's type: a type is its name.
fn name_types(context: &mut Context<'_>) {
    for name in TYPES {
        context.add_variable_from_value(name, name.to_owned());
    }
    context.add_function("dyn", |value: Cel| -> Outcome { Ok(value) });
    context.add_function("type", |value: Cel| -> String { type_name(&value).to_owned() });
}

fn type_name(value: &Cel) -> &'static str {
    match value {
        Cel::Int(_) => "int",
        Cel::UInt(_) => "uint",
        Cel::Float(_) => "double",
        Cel::Bool(_) => "bool",
        Cel::String(_) => "string",
        Cel::Bytes(_) => "bytes",
        Cel::List(_) => "list",
        Cel::Map(_) => "map",
        Cel::Null => "null_type",
        _ => "",
    }
}

/// Wraps a value that may be missing.
pub(in crate::admission::schema) fn optional(value: Option<Cel>) -> Cel {
    Cel::Opaque(Arc::new(value.map_or_else(OptionalValue::none, OptionalValue::of)))
}

/// Looks something up in a value, or in what an optional value holds.
fn found_in(value: &Cel, look: &dyn Fn(&Cel) -> Result<Option<Cel>, ExecutionError>) -> Outcome {
    let inner = match value {
        Cel::Opaque(opaque) => match opaque.downcast_ref::<OptionalValue>() {
            Some(wrapped) => wrapped.value(),
            None => return Err(ExecutionError::NoSuchOverload),
        },
        plain => Some(plain),
    };
    let found = match inner {
        Some(inner) => look(inner)?,
        None => None,
    };
    Ok(optional(found))
}

fn element(value: &Cel, key: &Cel) -> Result<Option<Cel>, ExecutionError> {
    match (value, key) {
        (Cel::List(list), Cel::Int(at)) => Ok(usize::try_from(*at).ok().and_then(|at| list.get(at)).cloned()),
        (Cel::Map(map), key) => {
            let key: Key = key.clone().try_into().map_err(|_| ExecutionError::NoSuchOverload)?;
            Ok(map.map.get(&key).cloned())
        }
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

fn pairs(range: &Cel) -> Outcome {
    let pair = |key: Cel, value: &Cel| Cel::List(Arc::new(vec![key, value.clone()]));
    let pairs: Vec<Cel> = match range {
        Cel::List(list) => (0..)
            .zip(list.iter())
            .map(|(at, value)| pair(Cel::Int(at), value))
            .collect(),
        Cel::Map(map) => map.map.iter().map(|(key, value)| pair(key.into(), value)).collect(),
        _ => return Err(ExecutionError::NoSuchOverload),
    };
    Ok(Cel::List(Arc::new(pairs)))
}

fn insert(context: &FunctionContext<'_, '_>) -> Outcome {
    let values: Result<Vec<Cel>, ExecutionError> = context.args.iter().map(|arg| context.ptx.resolve(arg)).collect();
    let (into, more): (Map, Vec<(Key, Cel)>) = match values?.as_slice() {
        [Cel::Map(into), key, value] => {
            let key: Key = key.clone().try_into().map_err(|_| ExecutionError::NoSuchOverload)?;
            (into.clone(), vec![(key, value.clone())])
        }
        [Cel::Map(into), Cel::Map(entries)] => {
            let entries = entries.map.iter().map(|(key, value)| (key.clone(), value.clone()));
            (into.clone(), entries.collect())
        }
        _ => return Err(ExecutionError::NoSuchOverload),
    };
    let mut map: HashMap<Key, Cel> = (*into.map).clone();
    for (key, value) in more {
        let told = format!("insert failed: key {key} already exists");
        if map.insert(key, value).is_some() {
            return Err(ExecutionError::function_error("transformMapEntry", told));
        }
    }
    Ok(Cel::Map(Map { map: Arc::new(map) }))
}

/// A turn of a loop that failed, while another may still decide.
#[derive(Debug, PartialEq)]
struct Fault(ExecutionError);

// Nothing compares faults but the evaluator, which asks for this.
impl Eq for Fault {}

impl Opaque for Fault {
    fn runtime_type_name(&self) -> &str {
        "@fault"
    }
}

fn fault(value: &Cel) -> Option<&Fault> {
    match value {
        Cel::Opaque(opaque) => opaque.downcast_ref::<Fault>(),
        _ => None,
    }
}

fn turn_of_all(context: &FunctionContext<'_, '_>) -> Outcome {
    turn(context, false)
}

fn turn_of_exists(context: &FunctionContext<'_, '_>) -> Outcome {
    turn(context, true)
}

/// Takes a turn of a loop that one turn can decide: a turn that fails is forgiven if another decides.
fn turn(context: &FunctionContext<'_, '_>, decides: bool) -> Outcome {
    let [before, said] = context.args else {
        return Err(ExecutionError::NoSuchOverload);
    };
    let before = context.ptx.resolve(before)?;
    let failed = match context.ptx.resolve(said) {
        Ok(Cel::Bool(said)) if said == decides => return Ok(Cel::Bool(said)),
        Ok(Cel::Bool(_)) => return Ok(before),
        Ok(_) => ExecutionError::NoSuchOverload,
        Err(error) => error,
    };
    match fault(&before) {
        Some(_) => Ok(before),
        None => Ok(Cel::Opaque(Arc::new(Fault(failed)))),
    }
}
