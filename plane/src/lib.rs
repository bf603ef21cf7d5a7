//! The room `plane`.
