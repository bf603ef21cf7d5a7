//! The room `reconciler`.
