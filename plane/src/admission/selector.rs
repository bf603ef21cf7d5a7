//! Label and field selectors.

pub mod field;
pub mod label;

pub use field::{FieldSelector, builtin_selectable};
pub use label::LabelSelector;
