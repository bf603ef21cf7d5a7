//! The room `schemas`.
