//! The room `tests`.
