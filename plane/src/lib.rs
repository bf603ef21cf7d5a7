//! The room `plane`.

pub mod admission;
