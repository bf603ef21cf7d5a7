//! The table of escapes.
