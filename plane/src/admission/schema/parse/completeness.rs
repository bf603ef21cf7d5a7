//! Structural schemas are complete: branches restrict what is declared, and declare nothing.

use crate::admission::error::FieldError;
use crate::admission::schema::node::Node;

/// Whatever a branch at the root mentions must also be declared outside of it.
pub(super) fn completeness(branches: &Node, outer: Option<&Node>, path: &str, at: &str, errors: &mut Vec<FieldError>) {
    let lists = [
        ("allOf", &branches.all_of),
        ("anyOf", &branches.any_of),
        ("oneOf", &branches.one_of),
    ];
    for (word, list) in lists {
        for (i, branch) in list.iter().enumerate() {
            covered(branch, outer, path, &format!("{at}.{word}[{i}]"), errors);
        }
    }
    if let Some(not) = &branches.not {
        covered(not, outer, path, &format!("{at}.not"), errors);
    }
}

fn covered(branch: &Node, outer: Option<&Node>, path: &str, at: &str, errors: &mut Vec<FieldError>) {
    let Some(outer) = outer else {
        errors.push(FieldError::required(path, format!("because it is defined in {at}")));
        return;
    };
    completeness(branch, Some(outer), path, at, errors);
    if let Some(items) = &branch.items {
        covered(
            items,
            outer.items.as_deref(),
            &format!("{path}.items"),
            &format!("{at}.items"),
            errors,
        );
    }
    for (key, child) in &branch.properties {
        let (path, at) = (format!("{path}.properties[{key}]"), format!("{at}.properties[{key}]"));
        covered(child, outer.properties.get(key), &path, &at, errors);
    }
}
