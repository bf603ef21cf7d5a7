//! The room `gate`.
